use super::{
    firmware::{HASHES_GUID, METADATA_GUID, RESET_GUID, TABLE_GUID},
    *,
};

/// A file like OVMF's: a pattern with a table and metadata. It boots nothing.
struct Image {
    pages: usize,
    sections: Vec<[u32; 3]>,
    hashes_table: Option<u32>,
    reset_eip: u32,
}

impl Image {
    fn full() -> Self {
        Self {
            pages: 4,
            sections: vec![
                [0x80_0000, 0x9000, 1],
                [0x80_a000, 0x3000, 1],
                [0x80_d000, 0x1000, 2],
                [0x80_e000, 0x1000, 3],
                [0x80_f000, 0x1000, 4],
                [0x81_0000, 0x1000, 0x10],
                [0x81_1000, 0xf000, 1],
            ],
            hashes_table: Some(0x81_0c00),
            reset_eip: 0x80_b004,
        }
    }

    fn one_page() -> Self {
        let mut image = Self::full();
        image.sections.retain(|section| section[2] != 0x10);
        Self { pages: 1, hashes_table: None, reset_eip: 0xffff_f123, ..image }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut table = Vec::new();
        if let Some(address) = self.hashes_table {
            table.extend(entry(&[address.to_le_bytes(), 0x400_u32.to_le_bytes()].concat(), &HASHES_GUID));
        }
        table.extend(entry(&self.reset_eip.to_le_bytes(), &RESET_GUID));
        table.extend(entry(&METADATA_FROM_END.to_le_bytes(), &METADATA_GUID));
        let with_table = self.with_table(&table);
        let count = self.sections.len() as u32;
        let mut metadata = [*b"ASEV", (16 + 12 * count).to_le_bytes(), 1_u32.to_le_bytes(), count.to_le_bytes()].concat();
        metadata.extend(self.sections.iter().flatten().flat_map(|word| word.to_le_bytes()));
        put(with_table, METADATA_FROM_END as usize, &metadata)
    }

    /// The pattern with these entries as its table.
    fn with_table(&self, entries: &[u8]) -> Vec<u8> {
        let len = self.pages * PAGE_BYTES;
        let pattern = (0..len).map(|at| (at * 7 + (at >> 8)) as u8).collect();
        let table = [entries, &(entries.len() as u16 + 18).to_le_bytes(), &TABLE_GUID].concat();
        put(pattern, 32 + table.len(), &table)
    }
}

fn put(mut bytes: Vec<u8>, from_end: usize, content: &[u8]) -> Vec<u8> {
    let at = bytes.len() - from_end;
    bytes[at..at + content.len()].copy_from_slice(content);
    bytes
}

fn entry(content: &[u8], guid: &[u8; 16]) -> Vec<u8> {
    [content, &(content.len() as u16 + 18).to_le_bytes(), guid].concat()
}

fn inputs(firmware: &[u8]) -> LaunchInputs<'_> {
    LaunchInputs { firmware, kernel: None, vcpus: 2, cpu: CpuSignature::EPYC_GENOA, guest_features: 1 }
}

fn kernel(initrd: bool, command_line: &str) -> Option<KernelDigests> {
    let initrd = if initrd { b"initrd".repeat(1000) } else { vec![] };
    Some(KernelDigests::of(&b"kernel".repeat(100), &initrd, command_line))
}

fn refusal(firmware: &[u8]) -> LaunchError {
    launch_measurement(&inputs(firmware)).unwrap_err()
}

/// The digests are those of sev-snp-measure 0.0.13 (PyPI) in its mode `snp` for QEMU, over the same bytes: the images above,
/// as kernel 100 times "kernel", as initrd 1000 times "initrd".
#[test]
fn measures_as_sev_snp_measure_does() {
    let image = Image::full().bytes();
    let of = |vcpus, cpu, kernel, guest_features| {
        hex::encode(launch_measurement(&LaunchInputs { firmware: &image, kernel, vcpus, cpu, guest_features }).unwrap())
    };
    assert_eq!(
        of(4, CpuSignature::EPYC_GENOA, kernel(true, "console=ttyS0 root=/dev/vda"), 1),
        "86e2565512fa70ac63bc96c7150e72c50f22d50284b1ac0237bceab20c0832e240380991f923b86bf32ff344ec8a3055"
    );
    assert_eq!(
        of(1, CpuSignature::EPYC_MILAN, kernel(true, "console=ttyS0"), 1),
        "1443d07fcbcb7ede239bdf74f329f83ac843efb882e7aecc92dc3cb3d2eb3c930d62b9c7cfd3e98bd9334f149d176fdb"
    );
    assert_eq!(
        of(2, CpuSignature::EPYC_TURIN, kernel(false, ""), 1),
        "bd1803c82dfa278e276e567935bc2ab30d8cc06152c21f90026e29d4f0510fc1d9835a7fceca210e40cf4244f33f0cd0"
    );
    assert_eq!(
        of(2, CpuSignature::EPYC, None, 1),
        "0fb766c4e33afc96c0efd10edd1af9b39053faad2b811fd39c4c4f346c398f63e7551ac335ca7ea1c0b2d59b78e593f3"
    );
    assert_eq!(
        of(3, CpuSignature::EPYC_GENOA, kernel(true, "quiet"), 0x21),
        "36a6584d17094f4ff899bc41ab05b041580265d26f807752a6830b8fe12e4e9cc012e32e9a144d36dfd198609c17e5de"
    );
    assert_eq!(
        hex::encode(launch_measurement(&inputs(&Image::one_page().bytes())).unwrap()),
        "34572af31d0bd05b717697bcdea0590c9631dc1620c0d69d583dcfee3de9d607bfe03fc44775cee7c8f16ef8518511d8"
    );
}

#[test]
fn a_kernel_that_would_not_be_measured_is_refused() {
    let without_table = Image { hashes_table: None, ..Image::full() }.bytes();
    let zero_table = Image { hashes_table: Some(0), ..Image::full() }.bytes();
    let elsewhere = Image { hashes_table: Some(0x81_1c00), ..Image::full() }.bytes();
    let at_the_end = Image { hashes_table: Some(0x81_0fff), ..Image::full() }.bytes();
    let behind = Image { hashes_table: Some(0x81_1000), ..Image::full() }.bytes();
    for firmware in [Image::one_page().bytes(), without_table, zero_table, elsewhere, at_the_end, behind] {
        let with_kernel = LaunchInputs { kernel: kernel(true, ""), ..inputs(&firmware) };
        assert_eq!(launch_measurement(&with_kernel), Err(LaunchError::NoKernelHashes));
    }
}

#[test]
fn digests_of_a_kernel_may_fill_the_last_bytes_of_their_page() {
    let at = |address| {
        let firmware = Image { hashes_table: Some(address), ..Image::full() }.bytes();
        launch_measurement(&LaunchInputs { kernel: kernel(true, ""), ..inputs(&firmware) })
    };
    let last = 0x81_1000 - HASH_AREA_BYTES as u32;
    assert!(at(0x81_0000).is_ok() && at(last).is_ok());
    assert_eq!(at(last + 1), Err(LaunchError::NoKernelHashes));
}

#[test]
fn the_number_of_processors_is_limited() {
    let firmware = Image::full().bytes();
    for vcpus in [0, MAX_VCPUS + 1] {
        assert_eq!(launch_measurement(&LaunchInputs { vcpus, ..inputs(&firmware) }), Err(LaunchError::Vcpus { vcpus }));
    }
    assert!(launch_measurement(&LaunchInputs { vcpus: MAX_VCPUS, ..inputs(&firmware) }).is_ok());
}

#[test]
fn files_that_are_not_whole_pages_or_too_large_are_refused() {
    let full = Image::full().bytes();
    for len in [0, 1, full.len() - 1, (16 << 20) + PAGE_BYTES] {
        let mut file = full.clone();
        file.resize(len, 0);
        assert_eq!(refusal(&file), FirmwareError::Length { len }.into());
    }
    assert_eq!(refusal(&[0; PAGE_BYTES]), FirmwareError::NoTable.into());
    assert!(Firmware::parse(&Image { pages: (16 << 20) / PAGE_BYTES, ..Image::full() }.bytes()).is_ok());
}

#[test]
fn tables_whose_lengths_do_not_fit_are_refused() {
    let image = Image::full();
    let metadata = entry(&METADATA_FROM_END.to_le_bytes(), &METADATA_GUID);
    let reset = entry(&[0; 4], &RESET_GUID);
    let mut short = reset.clone();
    short[4..6].copy_from_slice(&17_u16.to_le_bytes());
    let mut long = reset.clone();
    long[4..6].copy_from_slice(&500_u16.to_le_bytes());
    for bad in [short, long, vec![1; 5], [reset.clone(), reset.clone(), metadata.clone()].concat()] {
        assert_eq!(refusal(&image.with_table(&bad)), FirmwareError::Table.into());
    }
    // The whole table is longer than the file.
    let file = put(image.with_table(&[]), 32 + 18, &u16::MAX.to_le_bytes());
    assert_eq!(refusal(&file), FirmwareError::Table.into());
    let file = put(image.with_table(&[]), 32 + 18, &17_u16.to_le_bytes());
    assert_eq!(refusal(&file), FirmwareError::Table.into());
    assert_eq!(refusal(&image.with_table(&reset)), FirmwareError::Entry { what: "the SEV metadata" }.into());
    let three_bytes = entry(&[0; 3], &METADATA_GUID);
    assert_eq!(refusal(&image.with_table(&three_bytes)), FirmwareError::Entry { what: "the SEV metadata" }.into());
    let no_reset = put(image.bytes(), 32 + 18 + 22 + 22 - 6, &[0; 16]);
    assert_eq!(refusal(&no_reset), FirmwareError::Entry { what: "the SEV-ES reset vector" }.into());
}

#[test]
fn metadata_that_do_not_fit_are_refused() {
    let good = Image::full().bytes();
    let from_end = METADATA_FROM_END as usize;
    let change = |offset: usize, word: u32| put(good.clone(), from_end - offset, &word.to_le_bytes());
    for bad in [change(0, 1), change(4, 15), change(4, 16 + 12 * 6), change(8, 2), change(12, 65), change(12, u32::MAX)] {
        assert_eq!(refusal(&bad), FirmwareError::Metadata.into());
    }
    for from_end in [0, 15, u32::MAX, 4 * PAGE_BYTES as u32 + 1] {
        let pointer = entry(&from_end.to_le_bytes(), &METADATA_GUID);
        assert_eq!(refusal(&put(good.clone(), 32 + 18 + pointer.len(), &pointer)), FirmwareError::Metadata.into());
    }
}

#[test]
fn sections_that_do_not_fit_are_refused() {
    let with = |section| Image { sections: vec![section], ..Image::full() }.bytes();
    let page = PAGE_BYTES as u32;
    for section in [[1, page, 1], [0, page + 1, 1], [0, 0, 1], [0, 2 * page, 2], [0, 2 * page, 3], [0, 2 * page, 0x10]] {
        assert_eq!(refusal(&with(section)), FirmwareError::Metadata.into(), "{section:?}");
    }
    assert_eq!(refusal(&with([0xffff_f000, page, 1])), FirmwareError::Metadata.into());
    for kind in [0, 5, 0x11, u32::MAX] {
        assert_eq!(refusal(&with([0, page, kind])), FirmwareError::Section { kind }.into());
    }
    // As many as the limit.
    let many = Image { sections: vec![[0, page, 1]; 64], ..Image::full() }.bytes();
    assert_eq!(Firmware::parse(&many).unwrap().sections().len(), 64);
    let half = [0, 32 << 20, 1];
    assert!(launch_measurement(&inputs(&Image { sections: vec![half, half], ..Image::full() }.bytes())).is_ok());
    let more = Image { sections: vec![half, half, [0, page, 1]], ..Image::full() }.bytes();
    assert_eq!(refusal(&more), FirmwareError::Sections.into());
}

#[test]
fn everything_that_is_measured_changes_the_measurement() {
    let image = Image::full();
    let (bytes, other_reset) = (image.bytes(), Image { reset_eip: 0x80_b008, ..Image::full() }.bytes());
    let mut other_byte = bytes.clone();
    other_byte[5] ^= 1;
    let base = LaunchInputs { kernel: kernel(true, "a"), ..inputs(&bytes) };
    let other = |change: fn(&mut KernelDigests)| {
        let mut digests = kernel(true, "a").unwrap();
        change(&mut digests);
        LaunchInputs { kernel: Some(digests), ..base.clone() }
    };
    let cases = [
        base.clone(),
        LaunchInputs { firmware: &other_byte, ..base.clone() },
        LaunchInputs { firmware: &other_reset, ..base.clone() },
        LaunchInputs { kernel: None, ..base.clone() },
        other(|digests| digests.kernel[0] ^= 1),
        other(|digests| digests.initrd[31] ^= 1),
        other(|digests| digests.command_line[7] ^= 1),
        LaunchInputs { vcpus: 3, ..base.clone() },
        LaunchInputs { cpu: CpuSignature::EPYC_MILAN, ..base.clone() },
        LaunchInputs { guest_features: 0, ..base.clone() },
    ];
    let seen: std::collections::BTreeSet<_> = cases.iter().map(|case| launch_measurement(case).unwrap()).collect();
    assert_eq!(seen.len(), cases.len());
}

#[test]
fn signatures_of_models_are_cpuids() {
    assert_eq!(CpuSignature::EPYC_MILAN, CpuSignature(0x00a0_0f11));
    assert_eq!(CpuSignature::EPYC_GENOA, CpuSignature(0x00a1_0f10));
    assert_eq!(CpuSignature::EPYC_TURIN, CpuSignature(0x00b0_0f00));
    assert_eq!(CpuSignature::of(6, 0x2a, 7), CpuSignature(0x0002_06a7));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(256))]

    #[test]
    fn any_table_or_metadata_is_measured_or_refused_without_a_panic(
        noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 1..64),
        from_end in 1_usize..2100,
    ) {
        let good = Image::one_page().bytes();
        let take = noise.len().min(from_end);
        let bad = put(good.clone(), from_end, &noise[..take]);
        // What decodes is measured as a whole, so that other bytes are another measurement.
        if let Ok(measured) = launch_measurement(&inputs(&bad)) {
            proptest::prop_assert_eq!(bad == good, Ok(measured) == launch_measurement(&inputs(&good)));
        }
    }
}

const METADATA_FROM_END: u32 = 2048;
