//! A layer's blocks, encrypted as dm-crypt's `aes-xts-plain64` with sectors of 4096 bytes.
//!
//! The two AES-256 keys of XTS (IEEE 1619) follow from the layer's data key: `HMAC-SHA256(DEK, "casemate/layer-key/v1" || 1)` for the data
//! and the same with 2 for the tweaks. A block's tweak begins as its number of 512-byte sectors, little-endian.
//!
//! XTS tells nobody that a block was altered. Whoever opens a layer has checked its ciphertext by dm-verity, below.
//!
//! Not from a crate: the one for XTS is of another generation of RustCrypto than ours.

use aes::{
    Aes256,
    cipher::{Array, BlockCipherEncrypt as _, KeyInit as _},
};
use zeroize::Zeroizing;

use crate::{Dek, asset::mac};

/// Bytes of a block, which is dm-crypt's sector here.
pub const BLOCK: usize = 4096;

/// The key for dm-crypt.
pub fn xts_key(key: &Dek) -> Zeroizing<[u8; 64]> {
    let mut both = Zeroizing::new([0; 64]);
    for (half, number) in both.chunks_exact_mut(32).zip(1..) {
        half.copy_from_slice(mac(key, LABEL, &[number]).as_slice());
    }
    both
}

/// Encrypts the blocks of one layer. Its key must be fresh: the same block of two layers under one key looks the same.
pub struct LayerCipher {
    data: Aes256,
    tweak: Aes256,
}

impl LayerCipher {
    /// Under this key.
    pub fn new(key: &Dek) -> Self {
        Self::with_keys(&xts_key(key))
    }

    fn with_keys(key: &[u8; 64]) -> Self {
        let half = |bytes: &[u8]| Aes256::new_from_slice(bytes).expect("32 bytes are an AES-256 key");
        Self { data: half(&key[..32]), tweak: half(&key[32..]) }
    }

    /// Encrypts whole blocks in place, of which the first is the layer's `first_block`th, from 0.
    ///
    /// # Panics
    ///
    /// If `blocks` has a part of a block.
    pub fn encrypt(&self, first_block: u64, blocks: &mut [u8]) {
        assert_eq!(blocks.len() % BLOCK, 0, "only whole blocks are encrypted");
        for (number, block) in (first_block..).zip(blocks.chunks_exact_mut(BLOCK)) {
            self.unit(u128::from(number) * SECTORS, block);
        }
    }

    /// One data unit of XTS, without the stealing of ciphertext that others than whole blocks of AES would need.
    fn unit(&self, sector: u128, unit: &mut [u8]) {
        let mut first = Array::from(sector.to_le_bytes());
        self.tweak.encrypt_block(&mut first);
        let mut tweak = u128::from_le_bytes(first.into());
        // A run at a time, for ciphers that do several at once.
        for run in unit.chunks_mut(RUN * AES) {
            let mut tweaks = [0; RUN];
            for slot in &mut tweaks {
                *slot = tweak;
                tweak = (tweak << 1) ^ if tweak >> 127 == 1 { POLYNOMIAL } else { 0 };
            }
            let mut blocks = [Array::from([0; AES]); RUN];
            let count = run.len() / AES;
            for ((block, bytes), tweak) in blocks.iter_mut().zip(run.chunks_exact(AES)).zip(tweaks) {
                *block = Array::from((number(bytes) ^ tweak).to_le_bytes());
            }
            self.data.encrypt_blocks(&mut blocks[..count]);
            for ((block, bytes), tweak) in blocks.iter().zip(run.chunks_exact_mut(AES)).zip(tweaks) {
                bytes.copy_from_slice(&(number(block) ^ tweak).to_le_bytes());
            }
        }
    }
}

fn number(bytes: &[u8]) -> u128 {
    u128::from_le_bytes(bytes.try_into().expect("a block of AES has 16 bytes"))
}

const LABEL: &[u8] = b"casemate/layer-key/v1";
/// What dm-crypt counts blocks in.
const SECTORS: u128 = (BLOCK / 512) as u128;
const AES: usize = 16;
const RUN: usize = 16;
/// x^128 = x^7 + x^2 + x + 1
const POLYNOMIAL: u128 = 0x87;

#[cfg(test)]
mod tests {
    use super::*;

    /// IEEE 1619-2007, annex B, vector 10: 512 bytes 00, 01, .. under 256-bit keys in data unit ff.
    #[test]
    fn agrees_with_the_standard() {
        let mut key = [0; 64];
        key[..32].copy_from_slice(&hex::decode("2718281828459045235360287471352662497757247093699959574966967627").unwrap());
        key[32..].copy_from_slice(&hex::decode("3141592653589793238462643383279502884197169399375105820974944592").unwrap());
        let mut unit: Vec<u8> = (0..512).map(|i| i as u8).collect();
        LayerCipher::with_keys(&key).unit(0xff, &mut unit);
        let first = "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b";
        assert_eq!(hex::encode(&unit[..32]), first);
        let last = "c4f36ffda9fcea70b9c6e693e148c151";
        assert_eq!(hex::encode(&unit[496..]), last);
    }

    #[test]
    fn blocks_may_come_in_any_portions_and_no_two_look_the_same() {
        let cipher = LayerCipher::new(&Dek::from_bytes([7; 32]));
        let mut whole = vec![0; 5 * BLOCK];
        cipher.encrypt(0, &mut whole);
        let mut parts = vec![0; 5 * BLOCK];
        cipher.encrypt(3, &mut parts[3 * BLOCK..]);
        cipher.encrypt(0, &mut parts[..3 * BLOCK]);
        assert!(whole == parts);
        let mut blocks: Vec<&[u8]> = whole.chunks(16).collect();
        blocks.sort_unstable();
        blocks.dedup();
        assert_eq!(blocks.len(), whole.len() / 16);
    }

    #[test]
    fn the_two_halves_differ_and_follow_from_the_key() {
        let key = xts_key(&Dek::from_bytes([7; 32]));
        assert_ne!(key[..32], key[32..]);
        assert_eq!(*key, *xts_key(&Dek::from_bytes([7; 32])));
        assert_ne!(*key, *xts_key(&Dek::from_bytes([8; 32])));
    }
}
