//! The digest of the firmware to which the device certified the leaf key (FWID), in the two forms that NVIDIA's devices have.

use x509_cert::der::{Decode as _, asn1::ObjectIdentifier, oid::db::rfc5912::ID_SHA_384};

use super::der::{Element, INTEGER, OCTET_STRING, OID, SEQUENCE, constructed, only};
use crate::x509::Certificate;

/// Why the digest is not read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FwidError {
    /// Not of the form.
    #[error("extension {oid} is not well-formed, or has no SHA-384 digest")]
    Malformed {
        /// Which.
        oid: ObjectIdentifier,
    },
    /// Of another device.
    #[error("extension {oid} is about another device than the one that issued the leaf")]
    OtherDevice {
        /// Which.
        oid: ObjectIdentifier,
    },
}

/// The FWID in `leaf`, which a device with the public key `device` (DER) issued. `None` where the leaf has none.
pub(crate) fn firmware_id(leaf: &Certificate, device: &[u8]) -> Result<Option<[u8; 48]>, FwidError> {
    let find = |oid| leaf.extensions().iter().find(|extension| extension.extn_id == oid);
    if let Some(extension) = find(COMPOSITE_DEVICE_ID) {
        let malformed = FwidError::Malformed { oid: COMPOSITE_DEVICE_ID };
        let (key, fwid) = composite(extension.extn_value.as_bytes()).ok_or(malformed)?;
        return if key == device { Ok(Some(fwid)) } else { Err(FwidError::OtherDevice { oid: COMPOSITE_DEVICE_ID }) };
    }
    match find(TCB_INFO) {
        None => Ok(None),
        Some(extension) => tcb_info(extension.extn_value.as_bytes()).map(Some).ok_or(FwidError::Malformed { oid: TCB_INFO }),
    }
}

/// CompositeDeviceID ("Robust IoT", 2017; Hopper): version, public key of the device, FWID.
fn composite(bytes: &[u8]) -> Option<(&[u8], [u8; 48])> {
    let mut parts = only(bytes, SEQUENCE)?.elements();
    parts.expect(INTEGER)?;
    let key = parts.expect(SEQUENCE)?.whole;
    let fwid = digest(parts.expect(SEQUENCE).filter(|_| parts.is_empty())?)?;
    Some((key, fwid))
}

/// DiceTcbInfo (TCG DICE Attestation Architecture, section 6.1.1): the first FWID of its list, `[6]`.
fn tcb_info(bytes: &[u8]) -> Option<[u8; 48]> {
    let mut parts = only(bytes, SEQUENCE)?.elements();
    while !parts.is_empty() {
        let part = parts.next()?;
        if part.tag == constructed(6) {
            return digest(part.elements().expect(SEQUENCE)?);
        }
    }
    None
}

/// FWID: algorithm and digest.
fn digest(fwid: Element<'_>) -> Option<[u8; 48]> {
    let mut parts = fwid.elements();
    let algorithm = ObjectIdentifier::from_der(parts.expect(OID)?.whole).ok()?;
    let digest = parts.expect(OCTET_STRING).filter(|_| parts.is_empty() && algorithm == ID_SHA_384)?;
    digest.content.try_into().ok()
}

/// Today tcg-dice-TcbInfo, but Hopper's firmware has the older content under it.
const COMPOSITE_DEVICE_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.5.4.1");
const TCB_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.5.4.1.1");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `SEQUENCE { OID sha384, OCTET STRING of 48 times 7 }`.
    fn fwid() -> Vec<u8> {
        [&[0x30, 61, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2, 4, 48][..], &[7; 48]].concat()
    }

    #[test]
    fn reads_the_digest_in_both_forms() {
        let composite_id = [&[0x30, 70, 2, 1, 1, 0x30, 2, 5, 0][..], &fwid()].concat();
        assert_eq!(composite(&composite_id), Some((&[0x30, 2, 5, 0][..], [7; 48])));
        let info = [&[0x30, 68, 0x83, 1, 9, 0xa6, 63][..], &fwid()].concat();
        assert_eq!(tcb_info(&info), Some([7; 48]));
        assert_eq!(tcb_info(&[0x30, 3, 0x83, 1, 9]), None);
    }

    #[test]
    fn refuses_another_algorithm_and_another_length() {
        let mut other = fwid();
        other[12] = 3;
        assert_eq!(digest(only(&other, SEQUENCE).unwrap()), None);
        let mut short = fwid();
        short[1] -= 1;
        short[14] -= 1;
        short.pop();
        assert_eq!(digest(only(&short, SEQUENCE).unwrap()), None);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(composite(&bytes).is_none_or(|(key, _)| key.len() < bytes.len()));
            let _ = tcb_info(&bytes);
        }
    }
}
