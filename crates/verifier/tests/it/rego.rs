//! Appraisal policies: what they decide, and that nothing else than a clear yes is one.

use casemate_verifier::{
    AttestationResult, Kind, Outcome, Silicon, Submodule, Tier, UnixTime, claim,
    rego::{
        AppraisalPolicy, ExpectedParts, HistoryError, MAX_LINES, MAX_TEXT, NamedPolicy, PolicyError, PolicyInput, PolicyOptions,
        PolicyRefusal, apply_policy, verify_history,
    },
};
use serde_json::{Value, json};

use crate::world::Case;

fn policy(rules: &str) -> Result<AppraisalPolicy, PolicyError> {
    AppraisalPolicy::compile("test", &format!("package casemate.appraisal\nimport rego.v1\n{rules}\n"))
}

fn judge_with(policy: &AppraisalPolicy, result: &AttestationResult, gpus: u32) -> Result<Vec<String>, PolicyRefusal> {
    let input = PolicyInput {
        platform: &result.platform,
        submodules: &result.submodules,
        checks: &result.checks,
        now: result.at,
        expectation: ExpectedParts { instance: &result.instance, workload_digest: &result.workload_digest, gpus },
        policy: PolicyOptions::strict(),
    };
    policy.judge(&input).map(|accepted| accepted.warnings)
}

fn judge(rules: &str) -> Result<Vec<String>, PolicyRefusal> {
    judge_with(&policy(rules).unwrap(), &Case::good().appraise(), 0)
}

fn device(kind: Kind, claims: Value, generation: &str) -> Submodule {
    let mut part = Case::good().appraise().submodules["guest"].clone();
    part.kind = kind;
    part.claims = claims;
    part.silicon = Some(Silicon { generation: generation.into(), trust: Tier::Affirming });
    part
}

fn confidential(guest: Submodule, gpus: &[Submodule]) -> AttestationResult {
    let mut result = Case::good().appraise();
    result.platform = "confidential".into();
    result.submodules.insert("guest".into(), guest);
    for (index, gpu) in gpus.iter().enumerate() {
        result.submodules.insert(format!("gpu{index}"), gpu.clone());
    }
    result
}

fn snp_claims() -> Value {
    json!({"generation": "genoa", "integrity_assured": true, "revocation_checked": true, "simulated": false,
           "guest_policy": {"debug": false, "migrate_ma": false}})
}

fn tdx_claims() -> Value {
    json!({"tcb": {"status": "UpToDate", "qe_status": "UpToDate"}, "debug": false, "migratable": false,
           "platform": {"simulated": false}})
}

fn gpu_claims() -> Value {
    json!({"kind": "gpu", "mode": "single-passthrough", "refused": null, "revocation_known_at": 1, "simulated": false})
}

/// The claims with one value changed.
fn changed(mut claims: Value, pointer: &str, value: Value) -> Value {
    *claims.pointer_mut(pointer).unwrap() = value;
    claims
}

fn snp() -> Submodule {
    device(Kind::SnpGuest, snp_claims(), "genoa")
}

fn gpu() -> Submodule {
    device(Kind::Gpu, gpu_claims(), "hopper")
}

fn strict(result: &AttestationResult, gpus: u32) -> Result<Vec<String>, PolicyRefusal> {
    judge_with(&AppraisalPolicy::strict(), result, gpus)
}

#[test]
fn the_built_in_policy_accepts_what_is_sound() {
    strict(&Case::good().appraise(), 0).unwrap();
    strict(&confidential(snp(), &[]), 0).unwrap();
    strict(&confidential(snp(), &[gpu(), gpu()]), 2).unwrap();
    let tdx = device(Kind::TdxGuest, tdx_claims(), "sapphire-rapids");
    strict(&confidential(tdx, &[]), 0).unwrap();
    let switch = device(Kind::Gpu, changed(gpu_claims(), "/kind", json!("switch")), "hopper");
    strict(&confidential(snp(), &[gpu(), switch.clone(), switch]), 1).unwrap();
    let old = Submodule { tcb_age_s: Some(200 * 86_400), ..snp() };
    assert_eq!(strict(&confidential(old, &[]), 0).unwrap(), ["the TCB of guest is more than 180 days old"]);
}

#[test]
fn the_built_in_policy_refuses_each_weakness_alone() {
    let weak_silicon = Silicon { generation: "genoa".into(), trust: Tier::Warning };
    for (pointer, value) in [
        ("/generation", json!("milan")),
        ("/generation", json!("turin")),
        ("/integrity_assured", json!(false)),
        ("/revocation_checked", json!(false)),
        ("/simulated", json!(true)),
        ("/guest_policy/debug", json!(true)),
        ("/guest_policy/debug", json!("false")),
        ("/guest_policy/debug", json!(null)),
        ("/guest_policy/migrate_ma", json!(true)),
        ("/guest_policy", json!({})),
    ] {
        let guest = device(Kind::SnpGuest, changed(snp_claims(), pointer, value.clone()), "genoa");
        assert!(strict(&confidential(guest, &[]), 0).is_err(), "{pointer} {value}");
    }
    for (pointer, value) in [
        ("/tcb/status", json!("OutOfDate")),
        ("/tcb/status", json!("SWHardeningNeeded")),
        ("/tcb/qe_status", json!("OutOfDate")),
        ("/tcb", json!(null)),
        ("/debug", json!(true)),
        ("/migratable", json!(true)),
        ("/platform/simulated", json!(true)),
    ] {
        let guest = device(Kind::TdxGuest, changed(tdx_claims(), pointer, value.clone()), "emerald-rapids");
        assert!(strict(&confidential(guest, &[]), 0).is_err(), "{pointer} {value}");
    }
    for (pointer, value) in [
        ("/mode", json!("protected-pcie")),
        ("/mode", json!(null)),
        ("/kind", json!("other")),
        ("/refused", json!("gpu.chain")),
        ("/revocation_known_at", json!(null)),
        ("/simulated", json!(true)),
    ] {
        let part = device(Kind::Gpu, changed(gpu_claims(), pointer, value.clone()), "hopper");
        assert!(strict(&confidential(snp(), &[part]), 1).is_err(), "{pointer} {value}");
    }
    let guests = [
        ("milan", device(Kind::SnpGuest, changed(snp_claims(), "/generation", json!("milan")), "milan")),
        ("no claims", device(Kind::SnpGuest, json!(null), "genoa")),
        ("no silicon", Submodule { silicon: None, ..snp() }),
        ("weak silicon", Submodule { silicon: Some(weak_silicon), ..snp() }),
        ("simulated", Submodule { simulated: true, ..snp() }),
        ("warning", Submodule { status: Tier::Warning, ..snp() }),
        ("microvm where confidential was asked for", device(Kind::MicrovmGuest, json!({}), "genoa")),
        ("gpu as guest", gpu()),
    ];
    for (name, guest) in guests {
        let refused = strict(&confidential(guest, &[]), 0);
        assert!(matches!(refused, Err(PolicyRefusal::Denied { .. })), "{name}: {refused:?}");
    }
    for (seen, asked) in [(0, 1), (1, 0), (1, 2), (3, 2)] {
        let refused = strict(&confidential(snp(), &vec![gpu(); seen]), asked);
        assert!(matches!(refused, Err(PolicyRefusal::Denied { .. })), "{seen} of {asked}");
    }
}

#[test]
fn the_built_in_policy_wants_a_whole_composite() {
    let change = |change: &dyn Fn(&mut AttestationResult)| {
        let mut result = confidential(snp(), &[]);
        change(&mut result);
        strict(&result, 0).unwrap_err();
    };
    change(&|result| result.submodules.clear());
    change(&|result| drop(result.submodules.remove("node")));
    change(&|result| drop(result.submodules.remove("guest")));
    change(&|result| drop(result.submodules.insert("second".into(), snp())));
    change(&|result| result.platform = "microvm".into());
    change(&|result| result.platform = "other".into());
    change(&|result| result.checks.clear());
    change(&|result| result.checks[3].outcome = Outcome::NotReached);
    change(&|result| result.submodules.get_mut("node").unwrap().claims = json!({}));
}

#[test]
fn a_kind_that_no_rule_is_for_is_refused() {
    let result = Case::good().appraise();
    let mut parts = serde_json::to_value(&result.submodules).unwrap();
    // Lines of a policy have a limit of their own.
    for part in parts.as_object_mut().unwrap().values_mut() {
        part["anchors"] = json!([]);
    }
    parts["extra"] = parts["guest"].clone();
    parts["extra"]["kind"] = "toaster".into();
    // No kind of ours: only the text of the policy can say what happens.
    let text = include_str!("../../src/rego/default.rego")
        .replace("input.submodules", "parts")
        .replace("default allow := false", &format!("default allow := false\nparts := {parts:#}"));
    let refused = judge_with(&AppraisalPolicy::compile("changed", &text).unwrap(), &result, 0).unwrap_err();
    assert!(refused.to_string().contains("no rule accepts the submodule extra of kind toaster"), "{refused}");
}

#[test]
fn a_simulator_needs_the_policys_option() {
    let mut result = Case::good().appraise();
    result.submodules.get_mut("node").unwrap().simulated = true;
    assert!(apply_policy(result.clone(), &AppraisalPolicy::strict(), PolicyOptions::strict(), 0).guest().is_none());
    let allowed = apply_policy(result, &AppraisalPolicy::strict(), PolicyOptions { allow_simulated: true }, 0);
    assert!(allowed.is_affirming() && allowed.guest().is_some());
}

#[test]
fn only_true_with_an_empty_set_of_reasons_is_a_yes() {
    assert_eq!(judge("allow := true\ndeny := set()").unwrap(), Vec::<String>::new());
    assert_eq!(judge("allow := true\ndeny := set()\nwarn contains [\"n\", 7, true]").unwrap(), ["n 7 (true)"]);
    for allow in ["1", "\"true\"", "[true]", "{true}", "null", "false", "{\"allow\": true}"] {
        let refused = judge(&format!("allow := {allow}\ndeny := set()"));
        assert!(matches!(refused, Err(PolicyRefusal::NotAllowed { .. })), "{allow}: {refused:?}");
    }
    let undefined = judge("allow if input.absent\ndeny := set()");
    assert!(matches!(undefined, Err(PolicyRefusal::NotAllowed { allow: "undefined", .. })), "{undefined:?}");
    for deny in ["[]", "{}", "false", "null", "\"\"", "0"] {
        let refused = judge(&format!("allow := true\ndeny := {deny}"));
        assert!(matches!(refused, Err(PolicyRefusal::Type { rule: "deny", .. })), "{deny}: {refused:?}");
    }
    assert!(matches!(judge("allow := true\ndeny := set() if input.absent"), Err(PolicyRefusal::Type { .. })));
    assert!(matches!(judge("allow := true\ndeny := set()\nwarn := true"), Err(PolicyRefusal::Type { rule: "warn", .. })));
    let denied = judge("allow := true\ndeny contains [\"port\", 22, {}]\ndeny contains \"two\\nlines\"").unwrap_err();
    assert!(
        denied.to_string().ends_with("port 22 (an object); two lines")
            || denied.to_string().ends_with("two lines; port 22 (an object)"),
        "{denied}"
    );
    let conflict = judge("allow := true\nallow := false\ndeny := set()");
    assert!(matches!(conflict, Err(PolicyRefusal::Evaluation { .. } | PolicyRefusal::NotAllowed { .. })), "{conflict:?}");
    let failing = judge("allow if count(7) > 1\ndeny := set()");
    assert!(failing.is_err(), "{failing:?}");
}

#[test]
fn refuses_texts_that_are_no_policy() {
    assert!(matches!(AppraisalPolicy::compile("t", " \n"), Err(PolicyError::Empty)));
    assert!(matches!(AppraisalPolicy::compile("t", &" ".repeat(MAX_TEXT + 1)), Err(PolicyError::TooLong { .. })));
    let other = AppraisalPolicy::compile("t", "package casemate.other\nallow := true\ndeny := set()");
    assert!(matches!(other, Err(PolicyError::Package(_))), "{other:?}");
    assert!(matches!(policy("allow := true"), Err(PolicyError::Missing("deny"))));
    assert!(matches!(policy("deny := set()"), Err(PolicyError::Missing("allow") | PolicyError::Compile(_))));
    assert!(matches!(
        policy("# allow\nallowed := true\ndeny := set()"),
        Err(PolicyError::Missing("allow") | PolicyError::Compile(_))
    ));
    for broken in ["allow := ", "allow if {", "allow := true deny", "allow := undefined_function(1)\ndeny := set()", "\u{0}"] {
        assert!(matches!(policy(broken), Err(PolicyError::Compile(_))), "{broken}");
    }
}

#[test]
fn nothing_outside_the_input_can_be_asked() {
    for call in [
        "time.now_ns()",
        "http.send({\"method\": \"get\", \"url\": \"http://localhost\"})",
        "rand.intn(\"x\", 5)",
        "uuid.rfc4122(\"x\")",
        "opa.runtime()",
        "net.lookup_ip_addr(\"localhost\")",
        "numbers.range(0, 1000000000)",
        "sprintf(\"%1000000000d\", [1])",
        "concat(\"\", [\"a\", \"b\"])",
        "json.unmarshal(\"1e999999999\")",
        "bits.lsh(1, 1000000000)",
        "replace(\"a\", \"a\", \"aa\")",
        "2 * input.now",
    ] {
        let refused = policy(&format!("x := {call}\nallow if x\ndeny := set()"));
        assert!(matches!(refused, Err(PolicyError::Function(_) | PolicyError::Compile(_))), "{call}: {refused:?}");
    }
}

#[test]
fn work_is_bounded_by_instructions() {
    let digits = "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]";
    let rules = format!(
        "d := {digits}\nallow if count([1 | some a in d; some b in d; some c in d; some e in d; some f in d]) > 0\ndeny := set()"
    );
    let refused = judge(&rules).unwrap_err();
    assert!(matches!(&refused, PolicyRefusal::Evaluation { problem, .. } if problem.contains("nstruction")), "{refused}");
}

#[test]
fn deep_texts_are_refused() {
    for open in ["[", "{", "(", "{\"a\":", "f(", "[1 | x := "] {
        let refused = policy(&format!("allow := {}\ndeny := set()", open.repeat(20)));
        assert!(matches!(refused, Err(PolicyError::Function(_))), "{open}: {refused:?}");
        assert!(policy(&format!("allow := {}\ndeny := set()", open.repeat(9))).is_err(), "{open}");
    }
    for open in ["not ", "-", "some x in "] {
        assert!(policy(&format!("allow if {}\ndeny := set()", open.repeat(100))).is_err(), "{open}");
    }
    judge("allow if \"((((((((((((((((\" != `{{{{{{{{{{{{{{{{{{` # [[[[[[[[[[[[[[[[\ndeny := set()").unwrap();
}

#[test]
fn numbers_with_exponents_are_refused_before_anybody_computes_them() {
    for rules in [
        "allow if 1e1000000000 > 1",
        "allow if 1E+999999999 > 1",
        "x := `\"` # `\nallow if 1.5e-99999999 > x",
        "allow if \"\\\"\" == 2e999999999",
        "allow if to_number(\"1e999999999\") > 1",
    ] {
        let refused = policy(&format!("{rules}\ndeny := set()"));
        assert!(matches!(refused, Err(PolicyError::Function(_))), "{rules}: {refused:?}");
    }
    // In texts and names they are just letters.
    judge("# 1e9\nallow if \"1e9\" != `2e9\"`\nx1e9 := 1\ndeny := set()").unwrap();
    let hex = "0x1e9";
    assert!(policy(&format!("allow if {hex} > 1\ndeny := set()")).is_err());
}

/// `allow` calls `r0`, that calls `r1`, and so on.
fn chain(rules: usize) -> String {
    let calls: String = (1..rules).map(|rule| format!("r{} if r{rule}\n", rule - 1)).collect();
    format!("allow if r0\ndeny := set()\n{calls}r{} := true", rules - 1)
}

#[test]
fn rules_call_each_other_only_so_deep() {
    judge(&chain(30)).unwrap();
    for rules in [33, 100, 500] {
        assert!(matches!(policy(&chain(rules)), Err(PolicyError::Function(_))), "{rules}");
    }
    assert!(matches!(policy(&chain(MAX_LINES)), Err(PolicyError::TooManyLines { .. })));
    for circle in [
        "allow if other\nother if allow",
        "allow if allow",
        "allow if f(1)\nf(x) if g(x)\ng(x) if f(x)",
        "allow if data.casemate.appraisal[input.platform]",
        "allow if { some x in p }\np contains x if { some x in q }\nq contains x if { some x in p }",
    ] {
        assert!(policy(&format!("{circle}\ndeny := set()")).is_err(), "{circle}");
    }
}

#[test]
fn the_policys_check_decides_over_the_guest() {
    let good = Case::good().appraise();
    let accepted = apply_policy(good.clone(), &AppraisalPolicy::strict(), PolicyOptions::strict(), 0);
    assert!(accepted.guest().is_some());
    let last = accepted.checks.last().unwrap();
    assert_eq!((last.name.as_str(), last.outcome), ("policy.appraisal", Outcome::Pass));
    assert!(last.detail.contains(AppraisalPolicy::strict().id()));

    let never = policy("allow := true\ndeny contains \"never\"").unwrap();
    let refused = apply_policy(good, &never, PolicyOptions::strict(), 0);
    assert!(refused.guest().is_none() && !refused.is_affirming() && refused.status == Tier::Contraindicated);
    assert_eq!(refused.failed().unwrap().name, "policy.appraisal");
    assert!(refused.submodules.values().all(|part| part.tier() == Tier::Contraindicated), "nobody finds a good part in it");
    assert!(refused.checks[..refused.checks.len() - 1].iter().all(|check| check.outcome == Outcome::Pass));

    let before = Case { nonce: [0; 32], ..Case::good() }.appraise();
    let yes = policy("allow := true\ndeny := set()").unwrap();
    let still = apply_policy(before, &yes, PolicyOptions { allow_simulated: true }, 0);
    assert_eq!(still.failed().unwrap().name, "evidence.nonce");
    assert_eq!(still.checks.last().unwrap().outcome, Outcome::NotReached);
}

#[test]
fn the_same_text_and_input_give_the_same_verdict() {
    let (first, second) = (AppraisalPolicy::strict(), AppraisalPolicy::strict());
    assert_eq!(first.id(), second.id());
    let weak = confidential(Submodule { simulated: true, ..snp() }, &[gpu()]);
    let verdicts: Vec<_> = (0..5).map(|_| strict(&weak, 2).unwrap_err().to_string()).collect();
    assert!(verdicts.iter().all(|verdict| verdict == &verdicts[0]));
}

#[test]
fn a_trust_vector_speaks_through_the_status() {
    let mut result = Case::good().appraise();
    result.submodules.get_mut("guest").unwrap().trust.runtime_opaque = claim::VISIBLE_MEMORY;
    assert!(!result.is_affirming() && result.guest().is_none());
}

const ONE: &str = "package casemate.appraisal\nallow := true\ndeny := set()\n";
const TWO: &str = "package casemate.appraisal\nimport rego.v1\nallow := true\ndeny contains \"no\"\n";

fn history() -> Vec<NamedPolicy> {
    let first = NamedPolicy::next("gpu-only", ONE, UnixTime(10), None).unwrap();
    let second = NamedPolicy::next("gpu-only", TWO, UnixTime(20), Some(&first)).unwrap();
    let third = NamedPolicy::next("gpu-only", ONE, UnixTime(20), Some(&second)).unwrap();
    vec![first, second, third]
}

#[test]
fn a_history_vouches_for_each_of_its_versions() {
    let versions = history();
    let last = verify_history(&versions).unwrap();
    assert_eq!((last.version, last.text.as_str()), (3, ONE));
    assert!(last.compile().unwrap().id().starts_with("gpu-only/3@sha256:"));
    let json = serde_json::to_string(&versions).unwrap();
    assert_eq!(serde_json::from_str::<Vec<NamedPolicy>>(&json).unwrap(), versions);
}

#[test]
fn a_changed_history_is_refused() {
    let refused = |change: &dyn Fn(&mut Vec<NamedPolicy>)| {
        let mut versions = history();
        change(&mut versions);
        verify_history(&versions).map(|last| last.version).unwrap_err()
    };
    assert!(matches!(refused(&|all| all[1].text = ONE.into()), HistoryError::Digest(2)));
    assert!(matches!(refused(&|all| all[0].created_at = UnixTime(9)), HistoryError::Digest(1)));
    assert!(matches!(refused(&|all| all[2].created_at = UnixTime(19)), HistoryError::Date(3)));
    assert!(matches!(refused(&|all| drop(all.remove(1))), HistoryError::Order { .. }));
    assert!(matches!(refused(&|all| drop(all.remove(0))), HistoryError::Order { .. }));
    assert!(matches!(refused(&|all| all[1].name = "other".into()), HistoryError::Order { .. }));
    assert!(matches!(refused(&|all| all[1].name = "Other".into()), HistoryError::Name));
    assert!(matches!(refused(&Vec::clear), HistoryError::Length(0)));
    // Rewritten from the second version on, each with a right digest: the third still names the old second.
    let rewritten = refused(&|all| {
        all[1] = NamedPolicy::next("gpu-only", ONE, UnixTime(20), Some(&all[0])).unwrap();
    });
    assert!(matches!(rewritten, HistoryError::Previous(3)));
    assert!(matches!(NamedPolicy::next("a b", ONE, UnixTime(1), None), Err(HistoryError::Name)));
    assert!(matches!(NamedPolicy::next("a", "package x", UnixTime(1), None), Err(HistoryError::Policy { .. })));
}
