//! Between the JSON and the CBOR form of the claims: integer labels, numbers for tiers, bytes for the nonce
//! (draft-ietf-rats-ear-04, section 3; draft-ietf-rats-ar4si, section 3; RFC 9711).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ciborium::Value as Cbor;
use serde_json::Value as Json;

use crate::{cbor::CborError, result::Tier};

/// How the value under a name changes its form.
#[derive(Clone, Copy)]
enum Form {
    Same,
    Map(&'static [Label]),
    /// A map with names of its own, each value in this form.
    Each(&'static [Label]),
    Tier,
    Nonce,
}

struct Label {
    name: &'static str,
    number: i64,
    form: Form,
}

const fn label(name: &'static str, number: i64, form: Form) -> Label {
    Label { name, number, form }
}

const TOKEN: &[Label] = &[
    label("eat_profile", 265, Form::Same),
    label("iat", 6, Form::Same),
    label("exp", 4, Form::Same),
    label("ear_verifier_id", 1004, Form::Map(VERIFIER)),
    label("eat_nonce", 10, Form::Nonce),
    label("ear_status", 1000, Form::Tier),
    label("submods", 266, Form::Each(APPRAISAL)),
];
const VERIFIER: &[Label] = &[label("developer", 0, Form::Same), label("build", 1, Form::Same)];
const APPRAISAL: &[Label] = &[
    label("ear_status", 1000, Form::Tier),
    label("ear_trustworthiness_vector", 1001, Form::Map(VECTOR)),
    label("ear_appraisal_policy_ids", 1003, Form::Same),
    label("ear_attester_claims", 1005, Form::Same),
    label("ear_verifier_claims", 1006, Form::Same),
];
const VECTOR: &[Label] = &[
    label("instance-identity", 0, Form::Same),
    label("configuration", 1, Form::Same),
    label("executables", 2, Form::Same),
    label("file-system", 3, Form::Same),
    label("hardware", 4, Form::Same),
    label("runtime-opaque", 5, Form::Same),
    label("storage-opaque", 6, Form::Same),
    label("sourced-data", 7, Form::Same),
];

/// The claims of a token as CBOR.
pub(super) fn to_cbor(claims: &Json) -> Cbor {
    write(claims, Form::Map(TOKEN))
}

/// The claims of a token as JSON. What is not of the format is refused here or by whoever reads the JSON.
pub(crate) fn from_cbor(claims: Cbor) -> Result<Json, CborError> {
    read(claims, Form::Map(TOKEN))
}

fn write(value: &Json, form: Form) -> Cbor {
    match (form, value) {
        (Form::Map(labels), Json::Object(members)) => {
            let key = |name: &str| labels.iter().find(|label| label.name == name);
            let entry = |(name, value): (&String, &Json)| match key(name) {
                Some(label) => (Cbor::from(label.number), write(value, label.form)),
                None => (Cbor::Text(name.clone()), write(value, Form::Same)),
            };
            Cbor::Map(members.iter().map(entry).collect())
        }
        (Form::Each(labels), Json::Object(members)) => {
            Cbor::Map(members.iter().map(|(name, value)| (Cbor::Text(name.clone()), write(value, Form::Map(labels)))).collect())
        }
        (Form::Tier, value) => {
            let tier: Option<Tier> = serde_json::from_value(value.clone()).ok();
            Cbor::from(tier.expect("we wrote the tier").number())
        }
        (Form::Nonce, Json::String(text)) => Cbor::Bytes(URL_SAFE_NO_PAD.decode(text).expect("we wrote the nonce")),
        (_, value) => plain(value),
    }
}

fn plain(value: &Json) -> Cbor {
    match value {
        Json::Null => Cbor::Null,
        Json::Bool(value) => Cbor::Bool(*value),
        Json::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(number), _, _) => Cbor::from(number),
            (_, Some(number), _) => Cbor::from(number),
            (_, _, number) => Cbor::Float(number.unwrap_or_default()),
        },
        Json::String(text) => Cbor::Text(text.clone()),
        Json::Array(items) => Cbor::Array(items.iter().map(plain).collect()),
        Json::Object(members) => {
            Cbor::Map(members.iter().map(|(name, value)| (Cbor::Text(name.clone()), plain(value))).collect())
        }
    }
}

fn read(value: Cbor, form: Form) -> Result<Json, CborError> {
    match (form, value) {
        (Form::Map(labels), Cbor::Map(entries)) => object(entries, |key| match key {
            Cbor::Text(name) if labels.iter().all(|label| label.name != name) => Some((name, Form::Same)),
            Cbor::Integer(number) => {
                let number = i64::try_from(number).ok()?;
                let label = labels.iter().find(|label| label.number == number)?;
                Some((label.name.to_owned(), label.form))
            }
            _ => None,
        }),
        (Form::Each(labels), Cbor::Map(entries)) => object(entries, |key| Some((key.into_text().ok()?, Form::Map(labels)))),
        (Form::Tier, Cbor::Integer(number)) => {
            let tier = i8::try_from(number).ok().and_then(Tier::from_number);
            let tier = tier.ok_or(CborError::Type { what: "ear_status", expected: "a trust tier" })?;
            Ok(serde_json::to_value(tier).expect("a tier is plain data"))
        }
        (Form::Nonce, Cbor::Bytes(nonce)) => Ok(URL_SAFE_NO_PAD.encode(nonce).into()),
        (Form::Same, value) => from_plain(value),
        _ => Err(CborError::Type { what: "a claim", expected: "of the type that the format says" }),
    }
}

fn from_plain(value: Cbor) -> Result<Json, CborError> {
    Ok(match value {
        Cbor::Null => Json::Null,
        Cbor::Bool(value) => value.into(),
        Cbor::Text(text) => text.into(),
        Cbor::Integer(number) => match (u64::try_from(number), i64::try_from(number)) {
            (Ok(number), _) => number.into(),
            (_, Ok(number)) => number.into(),
            _ => return Err(CborError::Type { what: "a claim", expected: "a number of 64 bits" }),
        },
        Cbor::Float(number) => serde_json::Number::from_f64(number)
            .map(Json::Number)
            .ok_or(CborError::Type { what: "a claim", expected: "a finite number" })?,
        Cbor::Array(items) => Json::Array(items.into_iter().map(from_plain).collect::<Result<_, _>>()?),
        Cbor::Map(entries) => object(entries, |key| Some((key.into_text().ok()?, Form::Same)))?,
        _ => return Err(CborError::Type { what: "a claim", expected: "of a type that JSON has, too" }),
    })
}

fn object(entries: Vec<(Cbor, Cbor)>, name: impl Fn(Cbor) -> Option<(String, Form)>) -> Result<Json, CborError> {
    let mut members = serde_json::Map::new();
    for (key, value) in entries {
        let seen = format!("{key:?}").chars().take(60).collect();
        let refused = CborError::Key { what: "a map of claims", key: seen };
        let Some((name, form)) = name(key) else {
            return Err(refused);
        };
        if members.insert(name, read(value, form)?).is_some() {
            return Err(refused);
        }
    }
    Ok(Json::Object(members))
}
