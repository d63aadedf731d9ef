use proptest::prelude::*;

use super::*;

fn key() -> Dek {
    Dek::from_bytes([0x11; 32])
}

fn encrypted(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    assert_eq!(encrypt(plain, &mut out, &key(), [0x22; 32]).unwrap(), plain.len() as u64);
    out
}

fn decrypted(bytes: &[u8]) -> Result<Vec<u8>, AssetError> {
    let mut out = Vec::new();
    let len = decrypt(bytes, &mut out, &key())?;
    assert_eq!(len, out.len() as u64);
    Ok(out)
}

fn plain(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n / 7) as u8).collect()
}

/// The chunks of an encrypted asset, header first.
fn parts(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (header, rest) = bytes.split_at(HEADER_LEN);
    [header.to_vec()].into_iter().chain(rest.chunks(CHUNK + TAG).map(<[u8]>::to_vec)).collect()
}

#[test]
fn files_of_all_critical_lengths_come_back() {
    for len in [0, 1, 15, 16, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 5] {
        let plain = plain(len);
        let bytes = encrypted(&plain);
        let chunks = len.div_ceil(CHUNK).max(1);
        assert_eq!(bytes.len(), HEADER_LEN + len + chunks * TAG, "{len}");
        assert_eq!(decrypted(&bytes).unwrap(), plain, "{len}");
    }
}

#[test]
fn a_reader_of_single_bytes_makes_the_same_file() {
    struct Slow<'a>(&'a [u8]);
    impl Read for Slow<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let len = out.len().min(1);
            self.0.read(&mut out[..len])
        }
    }
    let plain = plain(CHUNK + 9);
    let mut out = Vec::new();
    encrypt(Slow(&plain), &mut out, &key(), [0x22; 32]).unwrap();
    assert_eq!(out, encrypted(&plain));
    let mut back = Vec::new();
    decrypt(Slow(&out), &mut back, &key()).unwrap();
    assert_eq!(back, plain);
}

#[test]
fn refuses_each_flipped_byte() {
    let good = encrypted(&plain(40));
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        let error = decrypted(&bytes).unwrap_err();
        match at {
            0..8 => assert!(matches!(error, AssetError::Format), "{at}: {error}"),
            8..72 => assert!(matches!(error, AssetError::WrongKey), "{at}: {error}"),
            72.. => assert!(matches!(error, AssetError::Altered { chunk: 0 }), "{at}: {error}"),
        }
    }
}

#[test]
fn names_a_wrong_key() {
    let bytes = encrypted(b"x");
    let error = decrypt(&bytes[..], io::sink(), &Dek::from_bytes([0x12; 32])).unwrap_err();
    assert!(matches!(error, AssetError::WrongKey));
}

#[test]
fn refuses_each_truncation() {
    let small = encrypted(&plain(40));
    for len in 0..small.len() {
        let error = decrypted(&small[..len]).unwrap_err();
        match len {
            0..8 => assert!(matches!(error, AssetError::Format), "{len}: {error}"),
            8..88 => assert!(matches!(error, AssetError::Truncated { chunk: 0 }), "{len}: {error}"),
            // A shorter last chunk is a chunk with another tag.
            88.. => assert!(matches!(error, AssetError::Altered { chunk: 0 }), "{len}: {error}"),
        }
    }
}

#[test]
fn names_a_cut_between_chunks() {
    let parts = parts(&encrypted(&plain(3 * CHUNK)));
    for (keep, at) in [(1, 0), (2, 0), (3, 1)] {
        let error = decrypted(&parts[..keep].concat()).unwrap_err();
        assert!(matches!(error, AssetError::Truncated { chunk } if chunk == at), "{keep}: {error}");
    }
}

#[test]
fn names_reordered_doubled_and_dropped_chunks() {
    let p = parts(&encrypted(&plain(4 * CHUNK + 3)));
    let swapped = [&p[0], &p[2], &p[1], &p[3], &p[4], &p[5]];
    let doubled = [&p[0], &p[1], &p[1], &p[2], &p[3], &p[5]];
    let dropped = [&p[0], &p[1], &p[2], &p[4], &p[5]];
    for (name, parts, at, is) in [("swapped", &swapped[..], 0, 1), ("doubled", &doubled, 1, 0), ("dropped", &dropped, 2, 3)] {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let error = decrypted(&bytes).unwrap_err();
        assert!(matches!(error, AssetError::OutOfOrder { chunk, found } if (chunk, found) == (at, is)), "{name}: {error}");
    }
}

#[test]
fn names_an_extension() {
    let full = encrypted(&plain(CHUNK));
    for tail in [&[0][..], &[0; TAG], &[0; CHUNK + TAG]] {
        let error = decrypted(&[&full[..], tail].concat()).unwrap_err();
        assert!(matches!(error, AssetError::Extended { chunk: 0 }), "{error}");
    }
    // Where the last chunk was not full, the bytes become part of it.
    let short = encrypted(&plain(5));
    assert!(matches!(decrypted(&[&short[..], &[0]].concat()), Err(AssetError::Altered { chunk: 0 })));
}

#[test]
fn refuses_a_chunk_of_another_file_under_the_same_key() {
    let ours = parts(&encrypted(&plain(100)));
    let mut theirs = Vec::new();
    encrypt(&plain(100)[..], &mut theirs, &key(), [0x33; 32]).unwrap();
    let mixed = [&ours[0][..], &parts(&theirs)[1]].concat();
    assert!(matches!(decrypted(&mixed), Err(AssetError::Altered { chunk: 0 })));
}

#[test]
fn reports_a_full_destination_and_a_broken_source() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("broken"))
        }
    }
    let mut full = [0; 80];
    let error = encrypt(&plain(100)[..], &mut full[..], &key(), [0; 32]).unwrap_err();
    assert!(matches!(error, AssetError::Write { chunk: 0, .. }), "{error}");
    assert!(matches!(decrypt(Broken, io::sink(), &key()), Err(AssetError::Read { chunk: 0, .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_file_comes_back(plain in prop::collection::vec(any::<u8>(), 0..(3 * CHUNK)), entropy: [u8; 32], key: [u8; 32]) {
        let key = Dek::from_bytes(key);
        let (mut sealed, mut back) = (Vec::new(), Vec::new());
        encrypt(&plain[..], &mut sealed, &key, entropy).unwrap();
        decrypt(&sealed[..], &mut back, &key).unwrap();
        prop_assert_eq!(back, plain);
    }

    #[test]
    fn decrypting_any_bytes_does_not_panic(bytes: Vec<u8>) {
        prop_assert!(decrypted(&bytes).is_err());
        prop_assert!(decrypted(&[MAGIC, &bytes[..]].concat()).is_err());
    }
}
