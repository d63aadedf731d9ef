//! Limits of appraisal policies and their histories: exactly the limit is accepted, one more is refused.

use casemate_verifier::{
    AttestationResult, UnixTime,
    rego::{
        AppraisalPolicy, ExpectedParts, HistoryError, MAX_INPUT, MAX_LINES, MAX_NAME, MAX_TEXT, NamedPolicy, PolicyError,
        PolicyInput, PolicyOptions, PolicyRefusal, verify_history,
    },
};
use sha2::{Digest as _, Sha256};

use crate::world::Case;

const RULES: &str = "package casemate.appraisal\nimport rego.v1\nallow := true\ndeny := set()\n";

fn compile(text: &str) -> Result<AppraisalPolicy, PolicyError> {
    AppraisalPolicy::compile("test", text)
}

/// The rules and comments, `len` bytes.
fn long(len: usize) -> String {
    let mut text = RULES.to_owned();
    while text.len() < len {
        let line = (len - text.len()).min(200);
        text.push_str(&"#".repeat(line - 1));
        text.push('\n');
    }
    text
}

fn input(result: &AttestationResult) -> PolicyInput<'_> {
    PolicyInput {
        platform: &result.platform,
        submodules: &result.submodules,
        checks: &result.checks,
        now: result.at,
        expectation: ExpectedParts { instance: &result.instance, workload_digest: &result.workload_digest, gpus: 0 },
        policy: PolicyOptions::strict(),
    }
}

#[test]
fn texts_have_a_limit_in_bytes_and_lines() {
    assert!(compile(&long(MAX_TEXT)).is_ok());
    assert!(matches!(compile(&long(MAX_TEXT + 1)), Err(PolicyError::TooLong { .. })));
    let lines = |count: usize| RULES.to_owned() + &"#\n".repeat(count - RULES.lines().count());
    assert!(compile(&lines(MAX_LINES)).is_ok());
    assert!(matches!(compile(&lines(MAX_LINES + 1)), Err(PolicyError::TooManyLines { .. })));
}

#[test]
fn inputs_have_a_limit_in_bytes() {
    let mut result = Case::good().appraise();
    let mut pad = |len: usize| {
        result.submodules.get_mut("guest").unwrap().claims = serde_json::json!({ "pad": "x".repeat(len) });
        result.clone()
    };
    let rest = serde_json::to_string(&input(&pad(0))).unwrap().len();
    let policy = compile(RULES).unwrap();
    assert!(policy.judge(&input(&pad(MAX_INPUT - rest))).is_ok());
    let refused = policy.judge(&input(&pad(MAX_INPUT - rest + 1)));
    assert!(matches!(refused, Err(PolicyRefusal::Input { len }) if len == MAX_INPUT + 1));
}

#[test]
fn brackets_nest_as_deep_as_the_limit() {
    let nested = |depth: usize| compile(&format!("{RULES}x := {}1{}\n", "[".repeat(depth), "]".repeat(depth)));
    assert!(nested(10).is_ok(), "{:?}", nested(10));
    assert!(matches!(nested(11), Err(PolicyError::Function(_))));
}

/// What is inside would not be seen by the checks of the text.
#[test]
fn texts_with_expressions_inside_are_refused() {
    for text in ["$\"{1}\"", "$`{1}`", "$\"\""] {
        let refused = compile(&format!("{RULES}x := {text}\n"));
        assert!(matches!(refused, Err(PolicyError::Function(_))), "{text}: {refused:?}");
    }
}

#[test]
fn a_rule_is_told_by_its_whole_name_and_a_warning_heard_wherever_it_begins() {
    for name in ["denying", "deny_", "deny2"] {
        let refused = compile(&format!("package casemate.appraisal\nimport rego.v1\nallow := true\n{name} := set()\n"));
        assert!(!matches!(refused, Err(PolicyError::Compile(_)) | Ok(_)), "{name}: {refused:?}");
    }
    let result = Case::good().appraise();
    let warnings = |rule: &str| compile(&format!("{RULES}{rule}")).unwrap().judge(&input(&result)).unwrap().warnings;
    assert!(warnings("warning := true\n").is_empty());
    for rule in ["warn contains \"careful\"\n", "  warn contains \"careful\"\n"] {
        assert_eq!(warnings(rule), ["careful"], "{rule}");
    }
}

#[test]
fn names_of_policies_have_one_to_as_many_letters_as_the_limit() {
    let named = |name: &str| NamedPolicy::next(name, RULES, UnixTime(1), None);
    assert!(named("a").is_ok() && named(&"a".repeat(MAX_NAME)).is_ok());
    for name in [String::new(), "a".repeat(MAX_NAME + 1)] {
        assert!(matches!(named(&name), Err(HistoryError::Name)), "{name:?}");
    }
    assert_eq!(named("a").unwrap().previous, "0".repeat(64), "the first one has none before it");
}

/// A policy of one version by the format of its digest: whoever signs nothing can write any history.
fn by_hand(text: String) -> NamedPolicy {
    let mut policy = NamedPolicy { text, ..NamedPolicy::next("a", RULES, UnixTime(1), None).unwrap() };
    let mut hash = Sha256::new_with_prefix(b"casemate/policy/v1\0");
    hash.update(1_u64.to_be_bytes());
    hash.update(b"a");
    hash.update(1_u64.to_be_bytes());
    hash.update(1_u64.to_be_bytes());
    hash.update(&policy.previous);
    hash.update(Sha256::digest(&policy.text));
    policy.digest = hex::encode(hash.finalize());
    policy
}

#[test]
fn a_history_has_no_text_above_the_limit() {
    assert_eq!(by_hand(RULES.to_owned()), NamedPolicy::next("a", RULES, UnixTime(1), None).unwrap());
    assert!(verify_history(&[by_hand(long(MAX_TEXT))]).is_ok());
    assert!(matches!(verify_history(&[by_hand(long(MAX_TEXT + 1))]), Err(HistoryError::Digest(1))));
}
