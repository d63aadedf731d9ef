//! Attestation results as tokens: readable by standard libraries, and nothing but a right one is believed.

use std::sync::OnceLock;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use casemate_verifier::{
    Anchor, AttestationResult, Kind, Silicon, Submodule, Tier, TrustVector, UnixTime,
    ear::{
        CLOCK_AHEAD_S, DEFAULT_LIFETIME_S, EXTENSION, EarError, Freshness, MAX_LIFETIME_S, MAX_TOKEN, Order, PROFILE,
        VerifiedEar, VerifierKey, VerifierPublicKey, sign_cwt, sign_jwt, verify_cwt, verify_jwt,
    },
};
use ciborium::Value as Cbor;
use p256::ecdsa::{Signature, SigningKey, signature::Signer as _};
use serde_json::{Value, json};

use crate::world::{Case, INSTANCE, NOW, WORKLOAD};

const POLICY: &str = "casemate-strict@sha256:00";

fn key() -> VerifierKey {
    VerifierKey::new(&[7; 32], "https://casemate.example", "casemate-verifier 0.1.0").unwrap()
}

/// A result with everything in it that a token can carry.
fn result() -> AttestationResult {
    // Certificates are other ones each time that they are made.
    static RESULT: OnceLock<AttestationResult> = OnceLock::new();
    RESULT.get_or_init(make_result).clone()
}

fn make_result() -> AttestationResult {
    let mut result = Case::good().appraise();
    let anchor = Anchor {
        kind: "amd-root".into(),
        subject: "CN=ARK-Genoa".into(),
        fingerprint: "ab".repeat(32),
        simulated: false,
        proved: "the processor".into(),
    };
    let claims = json!({"tcb": {"snp": 23, "offset": -4}, "names": ["a", "b"], "debug": false, "none": null});
    let trust = TrustVector { hardware: 2, runtime_opaque: 2, sourced_data: -2, ..TrustVector::default() };
    let silicon = Some(Silicon { generation: "genoa".into(), trust: Tier::Affirming });
    let part = result.submodules["guest"].clone();
    let cpu = Submodule { kind: Kind::SnpGuest, trust, claims, anchors: vec![anchor], tcb_age_s: Some(86_400), silicon, ..part };
    result.submodules.insert("cpu".into(), cpu);
    result
}

fn jwt() -> String {
    sign_jwt(&result(), &key(), POLICY, NOW, DEFAULT_LIFETIME_S).unwrap()
}

fn cwt() -> Vec<u8> {
    sign_cwt(&result(), &key(), POLICY, NOW, DEFAULT_LIFETIME_S).unwrap()
}

fn read_jwt(token: &str) -> Result<VerifiedEar, EarError> {
    verify_jwt(token.as_bytes(), &key().public(), NOW)
}

/// A JWT by the right key, whatever it says.
fn signed(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let signature: Signature = SigningKey::from_slice(&[7; 32]).unwrap().sign(signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
}

fn part(token: &str, index: usize) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(index).unwrap()).unwrap()).unwrap()
}

fn with_header(change: impl FnOnce(&mut Value)) -> Result<VerifiedEar, EarError> {
    let mut header = part(&jwt(), 0);
    change(&mut header);
    read_jwt(&signed(&header, &part(&jwt(), 1)))
}

fn with_claims(change: impl FnOnce(&mut Value)) -> Result<VerifiedEar, EarError> {
    let mut claims = part(&jwt(), 1);
    change(&mut claims);
    read_jwt(&signed(&part(&jwt(), 0), &claims))
}

#[test]
fn both_forms_say_what_the_result_says() {
    let result = result();
    let from_jwt = read_jwt(&jwt()).unwrap();
    let from_cwt = verify_cwt(&cwt(), &key().public(), NOW).unwrap();
    assert_eq!(from_jwt, from_cwt);
    assert_eq!(from_jwt.submodules, result.submodules);
    assert_eq!(hex::encode(from_jwt.nonce_sha256), result.nonce_sha256);
    assert_eq!((from_jwt.status, from_jwt.issued_at, from_jwt.expires_at.0), (Tier::Affirming, NOW, NOW.0 + 300));
    assert_eq!(from_jwt.policies, [POLICY]);
    let extension = &from_jwt.extension;
    assert_eq!((extension.instance.as_str(), extension.workload_digest.clone()), (INSTANCE, hex::encode(WORKLOAD)));
    assert_eq!((extension.simulated, extension.failed.as_deref()), (false, None));
    assert!(cwt().len() < jwt().len());
}

#[test]
fn a_token_is_the_same_each_time() {
    assert_eq!(jwt(), jwt());
    assert_eq!(cwt(), cwt());
}

#[test]
fn a_refusal_can_be_told_too() {
    let refused = Case { nonce: [0; 32], ..Case::good() }.appraise();
    let token = sign_jwt(&refused, &key(), POLICY, NOW, 60).unwrap();
    let ear = read_jwt(&token).unwrap();
    assert_eq!((ear.status, ear.extension.failed.as_deref()), (Tier::Contraindicated, Some("evidence.nonce")));
    assert_eq!(ear.submodules["node"].status, Tier::None);
    let token = sign_cwt(&refused, &key(), POLICY, NOW, 60).unwrap();
    assert_eq!(verify_cwt(&token, &key().public(), NOW).unwrap(), ear);
}

#[test]
fn says_who_made_the_nonce() {
    let (result, key) = (Case::good().appraise(), key());
    for (freshness, name) in [(Freshness::Verifier, "verifier"), (Freshness::RelyingParty, "relying-party")] {
        let order = Order { result: &result, key: &key, policy: POLICY, now: NOW, lifetime_s: 60, freshness: Some(freshness) };
        let token = order.jwt().unwrap();
        assert_eq!(read_jwt(&token).unwrap().extension.freshness, Some(freshness));
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&claims).unwrap()[EXTENSION]["freshness"], name);
        let ear = verify_cwt(&order.cwt().unwrap(), &key.public(), NOW).unwrap();
        assert_eq!(ear.extension.freshness, Some(freshness));
    }
    assert_eq!(read_jwt(&jwt()).unwrap().extension.freshness, None);
}

#[test]
fn a_standard_library_reads_the_jwt() {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, jwk::Jwk};
    let jwk: Jwk = serde_json::from_value(key().public().jwk()).unwrap();
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_required_spec_claims(&["exp"]);
    // The library takes the time of this machine; the test's token is of the test's time.
    validation.validate_exp = false;
    let read = decode::<Value>(jwt(), &DecodingKey::from_jwk(&jwk).unwrap(), &validation).unwrap();
    let header = decode_header(jwt()).unwrap();
    assert_eq!((header.kid, header.typ.as_deref()), (Some(key().public().kid()), Some("eat+jwt")));
    let claims = read.claims;
    assert_eq!(claims["eat_profile"], PROFILE);
    assert_eq!(claims["ear_status"], "affirming");
    assert_eq!(claims["ear_verifier_id"], json!({"developer": "https://casemate.example", "build": "casemate-verifier 0.1.0"}));
    assert_eq!(
        claims["submods"]["cpu"]["ear_trustworthiness_vector"],
        json!({"hardware": 2, "runtime-opaque": 2, "sourced-data": -2})
    );
    assert_eq!(claims["submods"]["cpu"]["ear_appraisal_policy_ids"], json!([POLICY]));
    assert_eq!(claims["submods"]["cpu"]["ear_attester_claims"]["tcb"]["snp"], 23);
    assert_eq!(claims["submods"]["cpu"]["ear_verifier_claims"][EXTENSION]["silicon"]["generation"], "genoa");
    assert_eq!(claims[EXTENSION]["instance"], INSTANCE);
    let mut other = jwt().into_bytes();
    let last = other.len() - 10;
    other[last] = if other[last] == b'A' { b'B' } else { b'A' };
    assert!(decode::<Value>(&other, &DecodingKey::from_jwk(&jwk).unwrap(), &validation).is_err());
}

#[test]
fn the_cwt_has_the_labels_of_the_draft() {
    let Cbor::Tag(18, message) = ciborium::from_reader(cwt().as_slice()).unwrap() else { panic!("COSE_Sign1 is tagged") };
    let parts = message.into_array().unwrap();
    let protected: Cbor = ciborium::from_reader(parts[0].as_bytes().unwrap().as_slice()).unwrap();
    let find = |map: &Cbor, key: &Cbor| map.as_map().unwrap().iter().find(|(seen, _)| seen == key).unwrap().1.clone();
    let number = |number: i64| Cbor::from(number);
    assert_eq!(find(&protected, &number(1)), number(-7));
    let claims: Cbor = ciborium::from_reader(parts[2].as_bytes().unwrap().as_slice()).unwrap();
    assert_eq!(find(&claims, &number(265)), Cbor::Text(PROFILE.into()));
    assert_eq!(find(&claims, &number(6)), Cbor::from(NOW.0));
    assert_eq!(find(&claims, &number(4)), Cbor::from(NOW.0 + 300));
    assert_eq!(find(&claims, &number(1000)), number(2));
    assert_eq!(find(&claims, &number(10)).as_bytes().unwrap().len(), 32);
    assert_eq!(find(&find(&claims, &number(1004)), &number(0)), Cbor::Text("https://casemate.example".into()));
    let cpu = find(&find(&claims, &number(266)), &Cbor::Text("cpu".into()));
    assert_eq!(find(&cpu, &number(1000)), number(2));
    assert_eq!(find(&find(&cpu, &number(1001)), &number(7)), number(-2));
    assert_eq!(find(&cpu, &number(1003)).as_array().unwrap().len(), 1);
    assert!(find(&claims, &Cbor::Text(EXTENSION.into())).is_map());
}

#[test]
fn no_byte_of_a_token_can_change() {
    let token = jwt().into_bytes();
    let public = key().public();
    for at in 0..token.len() {
        let mut changed = token.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(verify_jwt(&changed, &public, NOW).is_err(), "byte {at} of the JWT");
    }
    let token = cwt();
    for at in 0..token.len() {
        let mut changed = token.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(verify_cwt(&changed, &public, NOW).is_err(), "byte {at} of the CWT");
        assert!(verify_cwt(&token[..at], &public, NOW).is_err());
    }
    assert!(verify_cwt(&[token, vec![0]].concat(), &public, NOW).is_err());
}

#[test]
fn the_header_chooses_nothing() {
    for alg in ["none", "None", "HS256", "ES384", "EdDSA", "es256", ""] {
        let refused = with_header(|header| header["alg"] = alg.into());
        assert!(matches!(refused, Err(EarError::Header { field: "alg", .. })), "{alg}: {refused:?}");
    }
    let refused = with_header(|header| header["typ"] = "JWT".into());
    assert!(matches!(refused, Err(EarError::Header { field: "typ", .. })), "{refused:?}");
    assert!(matches!(with_header(|header| header["kid"] = "x".into()), Err(EarError::OtherKey { .. })));
    for more in ["jwk", "jku", "x5c", "crit", "b64"] {
        assert!(matches!(with_header(|header| header[more] = json!({})), Err(EarError::Json { part: "header", .. })), "{more}");
    }
    for lacks in ["alg", "typ", "kid"] {
        let refused = with_header(|header| drop(header.as_object_mut().unwrap().remove(lacks)));
        assert!(matches!(refused, Err(EarError::Json { part: "header", .. })), "{lacks}");
    }
    assert!(with_header(|_| ()).is_ok());
}

#[test]
fn a_mac_with_the_public_key_is_not_a_signature() {
    use hmac::{Hmac, KeyInit as _, Mac as _};
    let mut header = part(&jwt(), 0);
    header["alg"] = "HS256".into();
    let encoded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", encoded(&header), encoded(&part(&jwt(), 1)));
    let mac = Hmac::<sha2::Sha256>::new_from_slice(&key().public().to_sec1()).unwrap().chain_update(&message).finalize();
    let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(mac.into_bytes()));
    assert!(matches!(read_jwt(&token), Err(EarError::Header { field: "alg", .. })));
    let none = message.replace("HS256", "none");
    assert!(read_jwt(&format!("{none}.")).is_err());
    // Right header, MAC instead of a signature; a signature of zeros.
    let body = jwt().rsplit_once('.').unwrap().0.to_owned();
    for signature in [vec![0; 64], vec![0; 32], vec![], vec![0xff; 64]] {
        let token = format!("{body}.{}", URL_SAFE_NO_PAD.encode(signature));
        assert!(matches!(read_jwt(&token), Err(EarError::Signature)));
    }
}

#[test]
fn another_verifiers_token_is_refused() {
    let other = VerifierKey::new(&[8; 32], "https://casemate.example", "x").unwrap();
    let token = sign_jwt(&result(), &other, POLICY, NOW, 300).unwrap();
    assert!(matches!(read_jwt(&token), Err(EarError::OtherKey { .. })));
    let token = sign_cwt(&result(), &other, POLICY, NOW, 300).unwrap();
    assert!(matches!(verify_cwt(&token, &key().public(), NOW), Err(EarError::OtherKey { .. })));
    // With the right key's name, signed by the other.
    let (header, claims) = (part(&jwt(), 0), part(&jwt(), 1));
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature: Signature = SigningKey::from_slice(&[8; 32]).unwrap().sign(message.as_bytes());
    let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()));
    assert!(matches!(read_jwt(&token), Err(EarError::Signature)));
}

#[test]
fn a_token_is_valid_from_its_issue_to_its_end() {
    let at = |now: u64| {
        (verify_jwt(jwt().as_bytes(), &key().public(), UnixTime(now)), verify_cwt(&cwt(), &key().public(), UnixTime(now)))
    };
    for now in [NOW.0 - CLOCK_AHEAD_S, NOW.0, NOW.0 + 299] {
        let (jwt, cwt) = at(now);
        assert!(jwt.is_ok() && cwt.is_ok(), "{now}");
    }
    for now in [NOW.0 + 300, NOW.0 + 100_000, u64::MAX] {
        assert!(matches!(at(now), (Err(EarError::Expired { .. }), Err(EarError::Expired { .. }))), "{now}");
    }
    for now in [NOW.0 - CLOCK_AHEAD_S - 1, 0] {
        assert!(matches!(at(now), (Err(EarError::NotYet { .. }), Err(EarError::NotYet { .. }))), "{now}");
    }
    assert!(matches!(
        with_claims(|claims| claims["exp"] = json!(NOW.0 + u64::from(MAX_LIFETIME_S) + 1)),
        Err(EarError::Lifetime(3601))
    ));
    for lifetime in [0, MAX_LIFETIME_S + 1] {
        assert!(matches!(sign_jwt(&result(), &key(), POLICY, NOW, lifetime), Err(EarError::Lifetime(_))));
    }
}

#[test]
fn signed_claims_of_another_shape_are_refused() {
    let profile = with_claims(|claims| claims["eat_profile"] = "tag:ietf.org,2026:rats/ear#03".into());
    assert!(matches!(profile, Err(EarError::Profile(_))));
    for name in ["eat_profile", "iat", "exp", "ear_verifier_id", "eat_nonce", "ear_status", "submods", EXTENSION] {
        let refused = with_claims(|claims| drop(claims.as_object_mut().unwrap().remove(name)));
        assert!(matches!(refused, Err(EarError::Json { part: "claims", .. })), "{name}: {refused:?}");
    }
    assert!(matches!(with_claims(|claims| claims["more"] = json!(1)), Err(EarError::Json { .. })));
    assert!(matches!(with_claims(|claims| claims["exp"] = json!(1_800_000_300.0)), Err(EarError::Json { .. })));
    assert!(matches!(with_claims(|claims| claims["eat_nonce"] = "AAAA".into()), Err(EarError::Claim("eat_nonce"))));
    assert!(matches!(with_claims(|claims| claims["submods"] = json!({})), Err(EarError::Submodules(0))));
    let empty = with_claims(|claims| claims["submods"]["cpu"]["ear_appraisal_policy_ids"] = json!([]));
    assert!(matches!(empty, Err(EarError::Claim("ear_appraisal_policy_ids"))));
}

#[test]
fn a_status_better_than_its_parts_is_refused() {
    let part = with_claims(|claims| claims["submods"]["cpu"]["ear_trustworthiness_vector"]["hardware"] = json!(96));
    assert!(matches!(part, Err(EarError::Status(name)) if name == "cpu"));
    let silicon = with_claims(|claims| {
        claims["submods"]["cpu"]["ear_verifier_claims"][EXTENSION]["silicon"]["trust"] = "warning".into();
    });
    assert!(matches!(silicon, Err(EarError::Status(_))));
    let whole = with_claims(|claims| claims["submods"]["cpu"]["ear_status"] = "warning".into());
    assert!(matches!(whole, Err(EarError::Status(name)) if name == "the whole"));
    // Worse than its parts is allowed: a check of the whole may have failed.
    assert_eq!(with_claims(|claims| claims["ear_status"] = "contraindicated".into()).unwrap().status, Tier::Contraindicated);
}

#[test]
fn what_cannot_be_told_is_not_signed() {
    let mut result = result();
    result.submodules.get_mut("cpu").unwrap().claims = json!([1]);
    assert!(matches!(sign_jwt(&result, &key(), POLICY, NOW, 300), Err(EarError::Claim("ear_attester_claims"))));
    result.submodules.get_mut("cpu").unwrap().claims = json!({"long": "x".repeat(300_000)});
    assert!(matches!(sign_jwt(&result, &key(), POLICY, NOW, 300), Err(EarError::TooLong { .. })));
    assert!(matches!(sign_cwt(&result, &key(), POLICY, NOW, 300), Err(EarError::TooLong { .. })));
    assert!(matches!(sign_cwt(&result, &key(), "", NOW, 300), Err(EarError::Empty("policy"))));
    result.submodules.clear();
    assert!(matches!(sign_cwt(&result, &key(), POLICY, NOW, 300), Err(EarError::Submodules(0))));
    assert!(VerifierKey::new(&[0; 32], "a", "b").is_err() && VerifierKey::new(&[7; 32], "", "b").is_err());
    let public = key().public();
    assert_eq!(VerifierPublicKey::from_sec1(&public.to_sec1()).unwrap(), public);
    assert!(VerifierPublicKey::from_sec1(&[4; 65]).is_err());
    assert!(!format!("{:?}", key()).contains("07, 07"));
}

#[test]
fn numbers_of_every_kind_come_back_from_both_forms() {
    let mut result = result();
    let claims = json!({"most": u64::MAX, "least": i64::MIN, "share": 0.25});
    result.submodules.get_mut("cpu").unwrap().claims = claims.clone();
    let cwt = sign_cwt(&result, &key(), POLICY, NOW, 300).unwrap();
    assert_eq!(verify_cwt(&cwt, &key().public(), NOW).unwrap().submodules["cpu"].claims, claims);
    let jwt = sign_jwt(&result, &key(), POLICY, NOW, 300).unwrap();
    assert_eq!(read_jwt(&jwt).unwrap().submodules["cpu"].claims, claims);
}

#[test]
fn tokens_are_as_long_as_the_limit_and_no_longer() {
    let of = |pad: usize| {
        let mut result = result();
        result.submodules.get_mut("cpu").unwrap().claims = json!({"long": "x".repeat(pad)});
        sign_cwt(&result, &key(), POLICY, NOW, 300)
    };
    let pad = 100_000 + MAX_TOKEN - of(100_000).unwrap().len();
    let longest = of(pad).unwrap();
    assert_eq!(longest.len(), MAX_TOKEN);
    assert!(verify_cwt(&longest, &key().public(), NOW).is_ok());
    assert!(matches!(of(pad + 1), Err(EarError::TooLong { .. })));
    let read = |len: usize| verify_jwt(&vec![b'a'; len], &key().public(), NOW);
    assert!(matches!(read(MAX_TOKEN + 1), Err(EarError::TooLong { .. })));
    assert!(!matches!(read(MAX_TOKEN), Ok(_) | Err(EarError::TooLong { .. })));
}

#[test]
fn a_part_of_which_nothing_is_claimed_has_no_vector() {
    let result = Case { bytes: Some(vec![]), ..Case::good() }.appraise();
    let token = sign_jwt(&result, &key(), POLICY, NOW, 300).unwrap();
    let submodules = part(&token, 1)["submods"].clone();
    assert_eq!(result.submodules["guest"].trust, TrustVector::default());
    assert_eq!(submodules["guest"].get("ear_trustworthiness_vector"), None);
}

/// A claim with a number has one spelling: a second one could say something else.
#[test]
fn a_claim_of_a_cwt_is_not_told_by_name_instead_of_number() {
    let Cbor::Tag(18, message) = ciborium::from_reader(cwt().as_slice()).unwrap() else { panic!("COSE_Sign1 is tagged") };
    let encode = |value: &Cbor| {
        let mut bytes = Vec::new();
        ciborium::into_writer(value, &mut bytes).unwrap();
        bytes
    };
    let signed = |rename: bool| {
        let mut parts = message.clone().into_array().unwrap();
        let mut claims: Cbor = ciborium::from_reader(parts[2].as_bytes().unwrap().as_slice()).unwrap();
        let (name, _) = claims.as_map_mut().unwrap().iter_mut().find(|(name, _)| *name == Cbor::from(6)).unwrap();
        if rename {
            *name = "iat".into();
        }
        parts[2] = Cbor::Bytes(encode(&claims));
        let what = vec!["Signature1".into(), parts[0].clone(), Cbor::Bytes(vec![]), parts[2].clone()];
        let signature: Signature = SigningKey::from_slice(&[7; 32]).unwrap().sign(&encode(&Cbor::Array(what)));
        parts[3] = Cbor::Bytes(signature.to_bytes().to_vec());
        verify_cwt(&encode(&Cbor::Tag(18, Box::new(Cbor::Array(parts)))), &key().public(), NOW)
    };
    assert!(signed(false).is_ok());
    assert!(matches!(signed(true), Err(EarError::Cbor(_))), "{:?}", signed(true));
}

/// For a check by hand with other libraries: `CASEMATE_EAR_OUT=FOLDER cargo nextest run -p casemate-verifier tokens_for`.
#[test]
fn tokens_for_other_libraries_can_be_written() {
    assert!(read_jwt(&jwt()).is_ok());
    let Some(folder) = std::env::var_os("CASEMATE_EAR_OUT").map(std::path::PathBuf::from) else { return };
    std::fs::write(folder.join("token.jwt"), jwt()).unwrap();
    std::fs::write(folder.join("token.cwt"), cwt()).unwrap();
    std::fs::write(folder.join("key.jwk"), key().public().jwk().to_string()).unwrap();
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_readers_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        let public = key().public();
        proptest::prop_assert!(verify_jwt(&bytes, &public, NOW).is_err());
        proptest::prop_assert!(verify_cwt(&bytes, &public, NOW).is_err());
    }
}
