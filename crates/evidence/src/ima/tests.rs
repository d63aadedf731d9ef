use proptest::prelude::*;

use super::*;

/// An entry of the binary form, made apart from the decoder.
fn record(template: &str, fields: &[&[u8]]) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_le_bytes()[..], bytes].concat();
    let data: Vec<u8> = fields.iter().flat_map(|field| sized(field)).collect();
    let digest = HashAlg::Sha1.digest(&[&data]);
    [&10u32.to_le_bytes()[..], digest.as_slice(), &sized(template.as_bytes()), &sized(&data)].concat()
}

fn labelled(label: &str, digest: &[u8]) -> Vec<u8> {
    [label.as_bytes(), b"\0", digest].concat()
}

fn line(template: &str, data: &[&[u8]], words: &str) -> String {
    let binary = record(template, data);
    let digest: String = binary[4..24].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("10 {digest} {template} {words}\n")
}

#[test]
fn both_forms_of_each_template_give_the_same_entry() {
    let sha256 = labelled("sha256:", &[0xaa; 32]);
    let verity = labelled("verity:sha256:", &[0xaa; 32]);
    let (hex, sig) = ("aa".repeat(32), [3u8, 2, 4]);
    let cases: [(&str, Vec<&[u8]>, String); 7] = [
        ("ima-ng", vec![&sha256, b"/bin/sh\0"], format!("sha256:{hex} /bin/sh")),
        ("ima-ngv2", vec![&verity, b"/bin/sh\0"], format!("verity:sha256:{hex} /bin/sh")),
        ("ima-sig", vec![&sha256, b"/bin/sh\0", &sig], format!("sha256:{hex} /bin/sh 030204")),
        ("ima-sig", vec![&sha256, b"/bin/sh\0", &[]], format!("sha256:{hex} /bin/sh ")),
        ("ima-buf", vec![&sha256, b"kexec-cmdline\0", b"ro"], format!("sha256:{hex} kexec-cmdline 726f")),
        ("ima-modsig", vec![&sha256, b"/m.ko\0", &[], &sha256, &sig], format!("sha256:{hex} /m.ko  sha256:{hex} 030204")),
        ("d-ng|n-ng|sig", vec![&sha256, b"/bin/sh\0", &[]], format!("sha256:{hex} /bin/sh ")),
    ];
    for (template, fields, words) in cases {
        let (binary, text) = (record(template, &fields), line(template, &fields, &words));
        let (mut a, mut b) = (Reader::new(&binary, Format::Binary(HashAlg::Sha1)), Reader::new(text.as_bytes(), Format::Ascii));
        let (x, y) = (a.next_entry().unwrap().unwrap(), b.next_entry().unwrap().unwrap());
        assert_eq!(x.template_digest(HashAlg::Sha1), x.listed(), "{template}");
        assert_eq!((x.data(), x.listed(), x.name(), x.digest()), (y.data(), y.listed(), y.name(), y.digest()), "{template}");
        assert_eq!((x.pcr(), x.digest_alg(), x.digest()), (10, Some(HashAlg::Sha256), &[0xaa; 32][..]));
        assert_eq!((x.signature(), x.buffer(), x.modsig()), (y.signature(), y.buffer(), y.modsig()));
        assert_eq!(x.digest_kind() == DigestKind::Verity, template == "ima-ngv2");
        assert!(a.next_entry().unwrap().is_none() && b.next_entry().unwrap().is_none());
        assert_eq!((a.offset(), b.offset(), a.count()), (binary.len(), text.len(), 1));
    }
}

#[test]
fn the_first_template_hashes_the_name_filled_up() {
    let data = [&[7; 20][..], b"/init", &[0; 251]].concat();
    let digest = HashAlg::Sha1.digest(&[&data]);
    let text = format!("10 {digest} ima {} /init\n", "07".repeat(20));
    let binary = [&10u32.to_le_bytes()[..], digest.as_slice(), &[3, 0, 0, 0], b"ima", &[7; 20], &[5, 0, 0, 0], b"/init"].concat();
    for (bytes, format) in [(text.as_bytes(), Format::Ascii), (&binary[..], Format::Binary(HashAlg::Sha1))] {
        let mut reader = Reader::new(bytes, format);
        let entry = reader.next_entry().unwrap().unwrap();
        assert_eq!((entry.name(), entry.digest()), (&b"/init"[..], &[7; 20][..]));
        assert_eq!(entry.template_digest(HashAlg::Sha1), entry.listed());
    }
}

#[test]
fn refuses_what_no_kernel_writes() {
    let hex = "aa".repeat(20);
    let of = |text: &str| Reader::new(text.as_bytes(), Format::Ascii).next_entry().map(|entry| entry.is_some()).unwrap_err();
    let good = format!("10 {hex} ima-ng sha1:{hex} /a\n");
    assert!(Reader::new(good.as_bytes(), Format::Ascii).next_entry().unwrap().is_some());
    assert!(matches!(of(good.trim_end()), ImaError::Short { field: "line", .. }));
    assert!(matches!(of(&format!("10 {hex} ima-xx sha1:{hex} /a\n")), ImaError::Template { .. }));
    assert!(matches!(of(&format!("10 {hex} n-ng /a\n")), ImaError::Template { .. }));
    assert!(matches!(of(&format!("10 {hex} d-ng|d-ng|n-ng sha1:{hex} sha1:{hex} /a\n")), ImaError::Template { .. }));
    for (text, field) in [
        (format!("x {hex} ima-ng sha1:{hex} /a\n"), "PCR index"),
        (format!("10 {} ima-ng sha1:{hex} /a\n", &hex[2..]), "template digest"),
        (format!("10 {} ima-ng sha1:{hex} /a\n", hex.to_uppercase()), "template digest"),
        (format!("10 {hex} ima-ng {hex} /a\n"), "template field"),
        (format!("10 {hex} ima-ng sha1:{} /a\n", &hex[1..]), "template field"),
        (format!("10 {hex} ima-ng sha1:{} /a\n", &hex[2..]), "template data"),
        (format!("10 {hex} ima-ng sha1:{hex} /a b\n"), "number of fields"),
        (format!("10 {hex} ima-ng sha1:{hex} /a\0b\n"), "template data"),
    ] {
        assert_eq!(of(&text), ImaError::Malformed { index: 0, field }, "{text:?}");
    }
    let long = format!("10 {hex} ima-ng sha1:{hex} /{}\n", "a".repeat(MAX_NAME));
    assert!(matches!(of(&long), ImaError::TooLarge { field: "name", .. }));
    assert!(matches!(of(&"1".repeat(1 << 20)), ImaError::TooLarge { field: "line", .. }));
}

#[test]
fn sizes_are_bounded_before_they_are_believed() {
    let mut binary = record("ima-ng", &[&labelled("sha1:", &[1; 20]), b"/a\0"]);
    let at = 4 + 20 + 4 + 6;
    binary[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = Reader::new(&binary, Format::Binary(HashAlg::Sha1)).next_entry().map(|entry| entry.is_some()).unwrap_err();
    assert!(matches!(error, ImaError::TooLarge { field: "template data", .. }));
}

#[test]
fn an_all_zero_digest_is_a_violation() {
    let text = format!("10 {} ima-ng sha1:{} /log\n", "00".repeat(20), "00".repeat(20));
    assert!(Reader::new(text.as_bytes(), Format::Ascii).next_entry().unwrap().unwrap().is_violation());
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), ascii in any::<bool>()) {
        let format = if ascii { Format::Ascii } else { Format::Binary(HashAlg::Sha256) };
        let mut reader = Reader::new(&bytes, format);
        while let Ok(Some(entry)) = reader.next_entry() {
            let _ = (entry.name().len(), entry.template_digest(HashAlg::Sha256));
        }
    }

    #[test]
    fn no_damaged_entry_makes_the_reader_panic(at in 0usize..200, flip in any::<u8>(), cut in 0usize..200) {
        let sha256 = labelled("sha256:", &[0xaa; 32]);
        let mut bytes = record("ima-modsig", &[&sha256, b"/m.ko\0", &[], &sha256, &[1]]);
        let at = at % bytes.len();
        bytes[at] ^= flip;
        bytes.truncate(cut.max(1));
        let mut reader = Reader::new(&bytes, Format::Binary(HashAlg::Sha1));
        while let Ok(Some(entry)) = reader.next_entry() {
            prop_assert!(entry.signature().is_none_or(|sig| sig.len() <= bytes.len()));
        }
    }
}
