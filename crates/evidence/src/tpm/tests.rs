use proptest::prelude::*;

use super::*;

fn quote() -> Attest {
    Attest {
        qualified_signer: [&[0, 0x0b][..], &[7; 32]].concat(),
        extra_data: vec![9; 32],
        clock: ClockInfo { clock_ms: 1 << 40, reset_count: 3, restart_count: 4, safe: true },
        firmware_version: 0x2017_0619_0016_3636,
        body: AttestBody::Quote { selections: vec![PcrSelection::sha256(&[14, 0, 7, 7])], pcr_digest: vec![1; 32] },
    }
}

fn ecc_key() -> Public {
    Public {
        name_alg: HashAlg::Sha256,
        attributes: ObjectAttributes::ATTESTATION_KEY,
        auth_policy: Vec::new(),
        params: PublicParams::Ecc {
            symmetric: Symmetric::Null,
            scheme: KeyScheme::Ecdsa(HashAlg::Sha256),
            curve: Curve::P256,
            x: vec![2; 32],
            y: vec![3; 32],
        },
    }
}

fn rsa_key() -> Public {
    Public {
        name_alg: HashAlg::Sha384,
        attributes: ObjectAttributes(0x0003_00b2),
        auth_policy: vec![5; 48],
        params: PublicParams::Rsa {
            symmetric: Symmetric::AesCfb { bits: 256 },
            scheme: KeyScheme::Null,
            bits: 2048,
            exponent: 0,
            n: vec![0xc1; 256],
        },
    }
}

fn signatures() -> [Signature; 3] {
    [
        Signature::Ecdsa { hash: HashAlg::Sha256, r: vec![1; 32], s: vec![2; 31] },
        Signature::Rsassa { hash: HashAlg::Sha384, sig: vec![3; 256] },
        Signature::Rsapss { hash: HashAlg::Sha512, sig: vec![4; 512] },
    ]
}

#[test]
fn what_is_encoded_parses_to_the_same() {
    assert_eq!(Attest::parse(&quote().encode().unwrap()), Ok(quote()));
    for key in [ecc_key(), rsa_key()] {
        assert_eq!(Public::parse(&key.encode()), Ok(key));
    }
    for signature in signatures() {
        assert_eq!(Signature::parse(&signature.encode()), Ok(signature));
    }
}

#[test]
fn refuses_every_truncation_and_any_byte_more() {
    let attest = quote().encode().unwrap();
    for end in 0..attest.len() {
        assert!(Attest::parse(&attest[..end]).is_err(), "attest cut at {end}");
    }
    assert_eq!(
        Attest::parse(&[&attest[..], &[0]].concat()),
        Err(TpmDecodeError::Trailing { structure: "TPMS_ATTEST", count: 1 })
    );
    for key in [ecc_key().encode(), rsa_key().encode()] {
        for end in 0..key.len() {
            assert!(Public::parse(&key[..end]).is_err(), "public cut at {end}");
        }
        assert!(matches!(Public::parse(&[&key[..], &[0]].concat()), Err(TpmDecodeError::Trailing { .. })));
    }
    for signature in signatures().map(|s| s.encode()) {
        for end in 0..signature.len() {
            assert!(Signature::parse(&signature[..end]).is_err(), "signature cut at {end}");
        }
        assert!(matches!(Signature::parse(&[&signature[..], &[0]].concat()), Err(TpmDecodeError::Trailing { .. })));
    }
}

#[test]
fn refuses_what_no_tpm_made() {
    let mut attest = quote().encode().unwrap();
    attest[0] = 0xfe;
    assert_eq!(Attest::parse(&attest), Err(TpmDecodeError::Magic { found: 0xfe54_4347 }));
}

#[test]
fn other_attestations_are_told_apart_from_quotes() {
    let mut attest = quote().encode().unwrap();
    attest[4..6].copy_from_slice(&0x8017u16.to_be_bytes());
    let parsed = Attest::parse(&attest).unwrap();
    assert_eq!(parsed.body, AttestBody::Other(0x8017));
    assert_eq!(parsed.encode(), None);
}

#[test]
fn sizes_above_their_limits_are_refused_before_they_are_read() {
    let long_signer = wire::Writer::new().u32(MAGIC).u16(st::ATTEST_QUOTE).u16(67).bytes(&[0; 200]).finish();
    let refusal = TpmDecodeError::TooLarge { field: "qualifiedSigner", size: 67, limit: 66 };
    assert_eq!(Attest::parse(&long_signer), Err(refusal));
    let long_rsa = wire::Writer::new().u16(alg_id::RSASSA).u16(alg_id::SHA256).u16(u16::MAX).finish();
    let refusal = TpmDecodeError::TooLarge { field: "signature", size: 65535, limit: 512 };
    assert_eq!(Signature::parse(&long_rsa), Err(refusal));
    let mut many = wire::Reader::new(&[0xff; 8]);
    assert!(matches!(decode_selections(&mut many), Err(TpmDecodeError::TooLarge { .. })));
}

#[test]
fn names_are_the_algorithm_and_the_digest_of_the_public_area() {
    // From the specification: nameAlg || H(publicArea).
    assert_eq!(ecc_key().name()[..2], [0x00, 0x0b]);
    assert_eq!(ecc_key().name().len(), 34);
    assert_eq!(rsa_key().name()[..2], [0x00, 0x0c]);
    assert_eq!(rsa_key().name().len(), 50);
    let mut other = ecc_key();
    other.attributes.0 &= !ObjectAttributes::RESTRICTED;
    assert_ne!(other.name(), ecc_key().name());
}

#[test]
fn refuses_sha1_names() {
    let mut bytes = ecc_key().encode();
    bytes[3] = 0x04;
    assert_eq!(Public::parse(&bytes), Err(TpmDecodeError::Unsupported { field: "name algorithm", id: 4 }));
}

#[test]
fn attributes_are_read_bit_by_bit() {
    let ak = ObjectAttributes::ATTESTATION_KEY;
    assert_eq!(ak.0, 0x0005_0472);
    assert!(ak.is_restricted() && ak.is_sign() && ak.fixed_tpm() && ak.fixed_parent() && ak.sensitive_data_origin());
    assert!(!ak.is_decrypt());
    assert!(!ObjectAttributes(0).is_restricted());
}

#[test]
fn selections_survive_any_bit_map_size() {
    // sha256, 2 octets: PCRs 0 and 15; sha1, 4 octets: PCR 31.
    let bytes = [0, 0, 0, 2, 0, 0x0b, 2, 0x01, 0x80, 0, 4, 4, 0, 0, 0, 0x80];
    let parsed = decode_selections(&mut wire::Reader::new(&bytes)).unwrap();
    assert_eq!(parsed[0], PcrSelection { hash: HashAlg::Sha256, pcrs: vec![0, 15] });
    assert_eq!(parsed[1], PcrSelection { hash: HashAlg::Sha1, pcrs: vec![31] });
    let again = encode_selections(wire::Writer::new(), &parsed).finish();
    assert_eq!(decode_selections(&mut wire::Reader::new(&again)), Ok(parsed));
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoders_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
        let _ = Attest::parse(&bytes);
        let _ = Signature::parse(&bytes);
        let _ = Public::parse(&bytes);
    }

    #[test]
    fn no_damage_makes_the_decoders_panic_or_lose_bytes(at in 0usize..600, flip in 1u8..) {
        let damaged = |mut bytes: Vec<u8>| {
            let at = at % bytes.len();
            bytes[at] ^= flip;
            bytes
        };
        let attest = damaged(quote().encode().unwrap());
        if let Ok(parsed) = Attest::parse(&attest) {
            prop_assert_ne!(&parsed, &quote());
        }
        for key in [ecc_key(), rsa_key()] {
            let bytes = damaged(key.encode());
            if let Ok(parsed) = Public::parse(&bytes) {
                prop_assert_eq!(parsed.encode(), bytes);
                prop_assert_ne!(parsed.name(), key.name());
            }
        }
        for signature in signatures() {
            let bytes = damaged(signature.encode());
            if let Ok(parsed) = Signature::parse(&bytes) {
                prop_assert_eq!(parsed.encode(), bytes);
            }
        }
    }
}
