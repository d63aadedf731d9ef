//! Signatures as "Standard Webhooks" has them: HMAC-SHA256 over the id, the time and the body.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// What a secret begins with when it is shown.
const PREFIX: &str = "whsec_";
/// How old or how far in the future a call may be, in seconds.
const TOLERANCE_S: u64 = 300;

/// The secret of a webhook: its owner and this server have it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Of these bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the store.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// As it is shown, once.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(self.0))
    }

    /// As it was shown.
    pub fn parse(text: &str) -> Option<Self> {
        STANDARD.decode(text.strip_prefix(PREFIX)?).ok()?.try_into().ok().map(Self)
    }

    /// The header `webhook-signature`.
    pub fn sign(&self, id: &str, at_s: u64, body: &[u8]) -> String {
        format!("v1,{}", STANDARD.encode(self.mac(id, at_s, body).finalize().into_bytes()))
    }

    fn mac(&self, id: &str, at_s: u64, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(format!("{id}.{at_s}.").as_bytes());
        mac.update(body);
        mac
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Whether a call is from who has the secret, and of now: what a receiver does. One of the signatures in the header must be good.
pub fn verify(secret: &Secret, id: &str, at_s: u64, signatures: &str, body: &[u8], now_s: u64) -> bool {
    let fresh = at_s.abs_diff(now_s) <= TOLERANCE_S;
    let good = |text: &str| {
        let mac = text.strip_prefix("v1,").and_then(|text| STANDARD.decode(text).ok());
        mac.is_some_and(|bytes| secret.mac(id, at_s, body).verify_slice(&bytes).is_ok())
    };
    fresh && signatures.split(' ').any(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> Secret {
        Secret::new([7; 32])
    }

    #[test]
    fn a_call_is_signed_as_the_standard_has_it() {
        // By Python: base64(hmac.new(bytes(32), b'msg_1.1700000000.{}', sha256)).
        let known = Secret::parse("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap();
        assert_eq!(known.sign("msg_1", 1_700_000_000, b"{}"), EXPECTED);
        assert_eq!(Secret::parse(&secret().reveal()), Some(secret()));
        for bad in ["", "whsec_", "whsec_AAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "whsec_?"] {
            assert_eq!(Secret::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_was_changed_on_its_way_is_no_call_of_ours() {
        let (id, at_s, body) = ("msg_1", 1000, b"{\"kind\":\"incident\"}");
        let signature = secret().sign(id, at_s, body);
        assert!(verify(&secret(), id, at_s, &signature, body, at_s + 5));
        assert!(verify(&secret(), id, at_s, &format!("v1,AAAA {signature}"), body, at_s));
        for at in 0..body.len() {
            let mut changed = body.to_vec();
            changed[at] ^= 1;
            assert!(!verify(&secret(), id, at_s, &signature, &changed, at_s), "byte {at}");
        }
        assert!(!verify(&secret(), "msg_2", at_s, &signature, body, at_s));
        assert!(!verify(&secret(), id, at_s + 1, &signature, body, at_s));
        assert!(!verify(&Secret::new([8; 32]), id, at_s, &signature, body, at_s));
        assert!(!verify(&secret(), id, at_s, &signature, body, at_s + TOLERANCE_S + 1), "a call of long ago");
        for bad in ["", "v1,", "v1", "v2,AAAA", &signature[..20], &signature["v1,".len()..]] {
            assert!(!verify(&secret(), id, at_s, bad, body, at_s), "{bad}");
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", secret()), "Secret");
    }

    const EXPECTED: &str = "v1,LzeNxZHo3O8fwpFJpLh/0B99ugILNFJw+/9lTgx0APs=";
}
