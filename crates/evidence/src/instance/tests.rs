use proptest::prelude::*;

use super::*;

fn quote(mark: u8) -> QuoteBundle {
    QuoteBundle {
        attest: vec![mark; 120],
        signature: vec![mark; 70],
        ak_public: vec![mark; 90],
        pcrs: BTreeMap::from([(4, Pcr([mark; 32])), (12, Pcr([1; 32]))]),
    }
}

fn launch_record() -> LaunchRecord {
    LaunchRecord {
        version: 1,
        instance: "i-1".into(),
        workload_digest: [1; 32],
        kernel: [2; 32],
        initrd: [3; 32],
        command_line: "console=ttyS0".into(),
        root_hash: [4; 32],
        vmm: Vmm { name: "qemu".into(), version: "7.2".into(), digest: [5; 32] },
        machine: Machine { kind: "microvm".into(), accel: "tcg".into(), cpus: 2, memory_mib: 512 },
        jail: Jail {
            uid: 4000,
            no_new_privs: true,
            seccomp: true,
            capabilities: 0,
            namespaces: vec!["mnt".into(), "net".into()],
            cgroup: true,
        },
        vtpm_ak_public: vec![6; 90],
        monitor: Some(Monitor { class: "enforcing_without".into(), without: vec!["memory".into()] }),
    }
}

fn evidence() -> InstanceEvidence {
    InstanceEvidence {
        version: 1,
        nonce: [9; 32],
        launch_record: launch_record().encode(),
        guest_keys: GuestKeys { version: 1, hpke: [7; 32], tls: [8; 32] }.encode(),
        node: quote(0x10),
        node_event_log: vec![0; 500],
        batch: merkle::path(&[[1; 32], [2; 32], [3; 32]], 1).unwrap(),
        guest: quote(0x20),
    }
}

#[test]
fn what_is_encoded_decodes_to_the_same() {
    assert_eq!(InstanceEvidence::decode(&evidence().encode()).unwrap(), evidence());
    assert_eq!(LaunchRecord::decode(&launch_record().encode()).unwrap(), launch_record());
}

#[test]
fn refuses_bytes_after_the_end() {
    let bytes = [launch_record().encode(), vec![0]].concat();
    assert!(matches!(LaunchRecord::decode(&bytes), Err(DecodeError::Malformed { .. })));
}

#[test]
fn refuses_every_truncation() {
    let bytes = evidence().encode();
    for end in 0..bytes.len() {
        assert!(InstanceEvidence::decode(&bytes[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn refuses_another_version() {
    let keys = GuestKeys { version: 2, hpke: [0; 32], tls: [0; 32] };
    assert!(matches!(GuestKeys::decode(&keys.encode()), Err(DecodeError::Version { version: 2, .. })));
}

#[test]
fn refuses_more_bytes_than_the_limit() {
    let mut large = evidence();
    large.node_event_log = vec![0; MAX_BYTES];
    assert!(matches!(InstanceEvidence::decode(&large.encode()), Err(DecodeError::TooLong { .. })));
}

#[test]
fn refuses_unknown_and_repeated_fields() {
    // {"version": 1, "hpke": h'00..', "tls": h'00..', X: 1}
    let keys = GuestKeys { version: 1, hpke: [0; 32], tls: [0; 32] }.encode();
    for extra in [&b"\x65extra\x01"[..], b"\x67version\x01"] {
        let mut bytes = keys.clone();
        bytes[0] += 1;
        bytes.extend_from_slice(extra);
        assert!(matches!(GuestKeys::decode(&bytes), Err(DecodeError::Malformed { .. })), "{extra:?}");
    }
}

#[test]
fn refuses_a_digest_of_another_length() {
    let good = GuestKeys { version: 1, hpke: [0; 32], tls: [0xaa; 32] }.encode();
    let mut short = good[..good.len() - 1].to_vec();
    let length_at = good.len() - 33;
    assert_eq!(short[length_at], 32);
    short[length_at] = 31;
    assert!(matches!(GuestKeys::decode(&short), Err(DecodeError::Malformed { .. })));
}

/// A length that the input cannot hold must neither allocate nor panic, and nesting must not use up the stack.
#[test]
fn promises_of_endless_content_are_refused_cheaply() {
    let huge_text = [&b"\xa1\x67version\x7b"[..], &u64::MAX.to_be_bytes()].concat();
    let huge_bytes = [&b"\xa1\x64hpke\x5b"[..], &u64::MAX.to_be_bytes()].concat();
    let huge_map = [&b"\xbb"[..], &u64::MAX.to_be_bytes()].concat();
    let huge_list = [&b"\xa1\x68siblings\x9b"[..], &u64::MAX.to_be_bytes()].concat();
    let deep = vec![0x81; MAX_BYTES];
    for bytes in [huge_text, huge_bytes, huge_map, huge_list, deep] {
        assert!(GuestKeys::decode(&bytes).is_err());
        assert!(InstanceEvidence::decode(&bytes).is_err());
    }
}

#[test]
fn leaf_and_binding_depend_on_every_input() {
    let leaf = instance_leaf(&[1; 32], b"record", b"keys", b"attest");
    assert_ne!(leaf, instance_leaf(&[2; 32], b"record", b"keys", b"attest"));
    assert_ne!(leaf, instance_leaf(&[1; 32], b"recorD", b"keys", b"attest"));
    assert_ne!(leaf, instance_leaf(&[1; 32], b"record", b"keyS", b"attest"));
    assert_ne!(leaf, instance_leaf(&[1; 32], b"record", b"keys", b"attesT"));
    assert_ne!(leaf, instance_leaf(&[1; 32], b"recordk", b"eys", b"attest"), "inputs do not run into each other");
    let binding = guest_binding(&[1; 32], b"keys", &[3; 32], "i-1");
    assert_ne!(binding, guest_binding(&[2; 32], b"keys", &[3; 32], "i-1"));
    assert_ne!(binding, guest_binding(&[1; 32], b"keyS", &[3; 32], "i-1"));
    assert_ne!(binding, guest_binding(&[1; 32], b"keys", &[4; 32], "i-1"));
    assert_ne!(binding, guest_binding(&[1; 32], b"keys", &[3; 32], "i-2"));
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoders_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = InstanceEvidence::decode(&bytes);
        let _ = LaunchRecord::decode(&bytes);
        let _ = GuestKeys::decode(&bytes);
    }

    #[test]
    fn no_damage_makes_the_decoders_panic_or_goes_unseen(at in 0usize..4000, flip in 1u8..) {
        let mut bytes = evidence().encode();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        if let Ok(decoded) = InstanceEvidence::decode(&bytes) {
            prop_assert_ne!(decoded, evidence());
        }
    }
}
