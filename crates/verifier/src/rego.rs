//! Appraisal policies in Rego over typed claims: the relying party's own rules, after every check has passed.
//!
//! A policy is text of the package `casemate.appraisal`. It is given the [`input`](PolicyInput) and must define `allow`
//! (true, or anything else for no) and the set `deny` (why not); it may define the set `warn`. A message is a string or an
//! array of strings and numbers, which are joined by spaces. The claims are accepted if, and only if, `allow` is `true`
//! *and* `deny` is an empty set. Whatever else happens is a refusal by the check `policy.appraisal`: an undefined rule, a
//! wrong type, an error, an exhausted limit.
//!
//! Evaluation is a function of policy and input. The engine is built without clock, randomness, network and files, and a
//! policy that calls anything but the listed functions is not accepted. It is bounded by [`MAX_TEXT`], [`MAX_INPUT`] and
//! [`MAX_INSTRUCTIONS`]; functions and operators by which a value could grow without instructions (`concat`, `sprintf`,
//! ranges, multiplication) are absent. A comparison of values that share parts is one instruction however long it takes:
//! who evaluates a *stranger's* policy does so in a process that can be ended.

mod calls;
mod history;
mod text;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use regorus::{
    Engine, Value,
    languages::rego::compiler::Compiler,
    rvm::{Instruction, RegoVM, program::Program},
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::{
    checks::{Check, CheckName, Finding, Outcome, chain},
    policy::Simulated,
    result::{AttestationResult, Submodule, Tier},
    time::UnixTime,
};

pub use history::{HistoryError, MAX_HISTORY, MAX_NAME, NamedPolicy, verify_history};

/// The text of the built-in policy.
pub const STRICT: &str = include_str!("rego/default.rego");
/// Longest policy, in bytes.
pub const MAX_TEXT: usize = 64 << 10;
/// Most lines of a policy: what the compiler of rules does grows faster than their number.
pub const MAX_LINES: usize = 600;
/// Longest input, in bytes of JSON.
pub const MAX_INPUT: usize = 1 << 20;
/// Most instructions of the engine for one rule.
pub const MAX_INSTRUCTIONS: usize = 200_000;

/// Why a text is not a policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Too long.
    #[error("the policy has {len} bytes, more than the limit of {MAX_TEXT}")]
    TooLong {
        /// Found.
        len: usize,
    },
    /// Too many lines.
    #[error("the policy has {lines} lines, more than the limit of {MAX_LINES}")]
    TooManyLines {
        /// Found.
        lines: usize,
    },
    /// Nothing in it.
    #[error("the policy is empty")]
    Empty,
    /// Not Rego, or rules that cannot be evaluated.
    #[error("compile the policy: {0}")]
    Compile(String),
    /// Another package.
    #[error("the policy is package \"{0}\", expected data.casemate.appraisal")]
    Package(String),
    /// A rule that must be there is not.
    #[error("the policy does not define \"{0}\"")]
    Missing(&'static str),
    /// It calls something that is not allowed.
    #[error("the policy uses {0}, which policies cannot use")]
    Function(String),
}

/// Why the claims were not accepted.
#[derive(Debug, thiserror::Error)]
pub enum PolicyRefusal {
    /// The policy says so.
    #[error("policy {policy} refuses: {reasons}")]
    Denied {
        /// Which.
        policy: String,
        /// Its messages.
        reasons: String,
    },
    /// `allow` is not true, without a reason.
    #[error("policy {policy} does not allow it: allow is {allow}")]
    NotAllowed {
        /// Which.
        policy: String,
        /// What it is.
        allow: &'static str,
    },
    /// A rule has a value of the wrong type.
    #[error("in policy {policy}, \"{rule}\" is {seen}, expected a set of messages")]
    Type {
        /// Which policy.
        policy: String,
        /// Which rule.
        rule: &'static str,
        /// What it is.
        seen: &'static str,
    },
    /// It could not be evaluated, or not within its limits.
    #[error("evaluate \"{rule}\" of policy {policy}: {problem}")]
    Evaluation {
        /// Which policy.
        policy: String,
        /// Which rule.
        rule: &'static str,
        /// What happened.
        problem: String,
    },
    /// Too much to judge.
    #[error("the input of the policy has {len} bytes, more than the limit of {MAX_INPUT}")]
    Input {
        /// Found.
        len: usize,
    },
}

/// What a policy sees, as `input`.
#[derive(Debug, Clone, Serialize)]
pub struct PolicyInput<'a> {
    /// `container`, `sandbox`, `microvm`, `confidential` or `node`: what was asked for.
    pub platform: &'a str,
    /// By name; see [`Submodule`].
    pub submodules: &'a BTreeMap<String, Submodule>,
    /// Every check, with its outcome.
    pub checks: &'a [Check],
    /// The time that everything is judged at, seconds since 1970.
    pub now: UnixTime,
    /// What the relying party asked for.
    pub expectation: ExpectedParts<'a>,
    /// Its options.
    pub policy: PolicyOptions,
}

/// What the relying party asked for.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ExpectedParts<'a> {
    /// The instance.
    pub instance: &'a str,
    /// The workload, hex.
    pub workload_digest: &'a str,
    /// How many GPUs the workload was promised.
    pub gpus: u32,
}

/// Options of the relying party that a policy respects.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct PolicyOptions {
    /// A simulator may stand in for hardware.
    pub allow_simulated: bool,
}

impl PolicyOptions {
    /// No simulators.
    pub fn strict() -> Self {
        Self { allow_simulated: false }
    }
}

impl From<Simulated> for PolicyOptions {
    fn from(simulated: Simulated) -> Self {
        Self { allow_simulated: simulated == Simulated::Allow }
    }
}

/// A policy that was accepted as one.
#[derive(Debug, Clone)]
pub struct AppraisalPolicy {
    id: String,
    program: Arc<Program>,
    warns: bool,
}

/// What a policy that accepted had to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Messages of `warn`.
    pub warnings: Vec<String>,
}

impl AppraisalPolicy {
    /// The built-in policy.
    pub fn strict() -> Self {
        Self::compile(STRICT_NAME, STRICT).expect("the built-in policy compiles; a test says so")
    }

    /// Compiles the text of the policy `name`.
    pub fn compile(name: &str, text: &str) -> Result<Self, PolicyError> {
        if text.len() > MAX_TEXT {
            return Err(PolicyError::TooLong { len: text.len() });
        }
        if text.trim().is_empty() {
            return Err(PolicyError::Empty);
        }
        let lines = text.lines().count();
        if lines > MAX_LINES {
            return Err(PolicyError::TooManyLines { lines });
        }
        text::is_modest(text)?;
        let id = format!("{name}@sha256:{}", hex::encode(Sha256::digest(text)));
        // The engine is a library of some size; a panic of it is a refusal as well.
        let (program, warns) = catch_unwind(AssertUnwindSafe(|| program_of(text)))
            .map_err(|_| PolicyError::Compile("the engine panicked".to_owned()))??;
        Ok(Self { id, program, warns })
    }

    /// Name and digest of the text: the identifier in attestation results.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether it is the built-in policy, by its text.
    pub(crate) fn is_built_in(&self) -> bool {
        self.id == format!("{STRICT_NAME}@sha256:{}", hex::encode(Sha256::digest(STRICT)))
    }

    /// Evaluates the policy.
    pub fn judge(&self, input: &PolicyInput<'_>) -> Result<Accepted, PolicyRefusal> {
        let json = serde_json::to_string(input).expect("the input is plain data");
        if json.len() > MAX_INPUT {
            return Err(PolicyRefusal::Input { len: json.len() });
        }
        let input = Value::from_json_str(&json).map_err(|error| self.failed(ALLOW, &error))?;
        let reasons = self.messages(DENY, &input)?;
        if !reasons.is_empty() {
            return Err(PolicyRefusal::Denied { policy: self.id.clone(), reasons: reasons.join("; ") });
        }
        let allow = self.rule(ALLOW, &input)?;
        if allow != Value::Bool(true) {
            return Err(PolicyRefusal::NotAllowed { policy: self.id.clone(), allow: type_name(&allow) });
        }
        let warnings = if self.warns { self.messages(WARN, &input)? } else { Vec::new() };
        Ok(Accepted { warnings })
    }

    /// `policy.appraisal`, for a ledger.
    pub(crate) fn finding(&self, input: &PolicyInput<'_>) -> Result<Finding<Accepted>, PolicyRefusal> {
        let detail = format!("policy {} accepts the claims", self.id);
        self.judge(input).map(|accepted| Finding::new(accepted, detail))
    }

    fn rule(&self, rule: &'static str, input: &Value) -> Result<Value, PolicyRefusal> {
        let run = || {
            let mut vm = RegoVM::new();
            vm.load_program(Arc::clone(&self.program));
            vm.set_max_instructions(MAX_INSTRUCTIONS);
            vm.set_strict_builtin_errors(true);
            vm.set_input(input.clone());
            vm.execute_entry_point_by_name(&entry_point(rule)).map_err(|error| self.failed(rule, &error))
        };
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err(self.failed(rule, &"the engine panicked")))
    }

    fn messages(&self, rule: &'static str, input: &Value) -> Result<Vec<String>, PolicyRefusal> {
        match self.rule(rule, input)? {
            Value::Set(set) => Ok(set.iter().take(MAX_MESSAGES).map(message).collect()),
            other => Err(PolicyRefusal::Type { policy: self.id.clone(), rule, seen: type_name(&other) }),
        }
    }

    fn failed(&self, rule: &'static str, problem: &dyn std::fmt::Display) -> PolicyRefusal {
        PolicyRefusal::Evaluation { policy: self.id.clone(), rule, problem: one_line(&problem.to_string()) }
    }
}

/// Enters the check `policy.appraisal` into a result: the last word of the relying party. A result that is not affirming
/// stays what it is; one that the policy refuses is contraindicated with all its submodules, and yields no guest.
pub fn apply_policy(
    mut result: AttestationResult,
    policy: &AppraisalPolicy,
    options: PolicyOptions,
    gpus: u32,
) -> AttestationResult {
    let input = PolicyInput {
        platform: &result.platform,
        submodules: &result.submodules,
        checks: &result.checks,
        now: result.at,
        expectation: ExpectedParts { instance: &result.instance, workload_digest: &result.workload_digest, gpus },
        policy: options,
    };
    let found = if result.failed().is_some() { None } else { Some(policy.finding(&input)) };
    let (outcome, detail) = match found {
        None => (Outcome::NotReached, String::new()),
        Some(Ok(finding)) => {
            result.warnings.extend(finding.value.warnings);
            (Outcome::Pass, finding.detail)
        }
        Some(Err(refusal)) => {
            result.status = result.status.worst(Tier::Contraindicated);
            // Whoever reads one submodule alone must not find it good.
            result.submodules.values_mut().for_each(Submodule::refuse);
            (Outcome::Fail, chain(&refusal))
        }
    };
    result.checks.push(Check { name: CheckName::PolicyAppraisal.to_string(), outcome, detail });
    result
}

fn program_of(text: &str) -> Result<(Arc<Program>, bool), PolicyError> {
    let compile = |problem: &dyn std::fmt::Display| PolicyError::Compile(one_line(&problem.to_string()));
    let mut engine = Engine::new();
    let package = engine.add_policy("policy.rego".to_owned(), text.to_owned()).map_err(|error| compile(&error))?;
    if package != PACKAGE {
        return Err(PolicyError::Package(one_line(&package)));
    }
    let policy = engine.compile_with_entrypoint(&entry_point(ALLOW).into()).map_err(|error| compile(&error))?;
    for rule in [ALLOW, DENY] {
        if !declares(text, rule) {
            return Err(PolicyError::Missing(rule));
        }
    }
    // Wherever in a line it begins: a warning that nobody hears is none.
    let warns = Compiler::compile_from_policy(&policy, &[&entry_point(WARN)]).is_ok();
    let rules = [ALLOW, DENY, WARN];
    let names: Vec<String> = rules[..if warns { 3 } else { 2 }].iter().copied().map(entry_point).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let program = Compiler::compile_from_policy(&policy, &names).map_err(|error| compile(&error))?;
    program.validate_limits().map_err(|error| compile(&error))?;
    only_listed(&program)?;
    calls::are_shallow(&program)?;
    Ok((program, warns))
}

/// Whether some line of the text starts a rule of that name. Only for a better message: an absent rule fails to compile, and
/// a wrong guess here is a refusal.
fn declares(text: &str, rule: &str) -> bool {
    text.lines().any(|line| {
        let line = line.strip_prefix("default ").unwrap_or(line);
        line.strip_prefix(rule).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    })
}

fn only_listed(program: &Program) -> Result<(), PolicyError> {
    for function in &program.builtin_info_table {
        if !FUNCTIONS.contains(&function.name.as_str()) {
            return Err(PolicyError::Function(format!("the function {}", one_line(&function.name))));
        }
    }
    let grows = |instruction: &&Instruction| matches!(instruction, Instruction::Mul { .. } | Instruction::HostAwait { .. });
    match program.instructions.iter().find(grows) {
        Some(_) => Err(PolicyError::Function("multiplication or a call to its host".to_owned())),
        None => Ok(()),
    }
}

fn entry_point(rule: &str) -> String {
    format!("{PACKAGE}.{rule}")
}

fn message(value: &Value) -> String {
    let part = |value: &Value| match value {
        Value::String(text) => text.to_string(),
        Value::Number(number) => number.format_decimal(),
        other => format!("({})", type_name(other)),
    };
    let text = match value {
        Value::Array(parts) => parts.iter().take(MAX_PARTS).map(part).collect::<Vec<_>>().join(" "),
        other => part(other),
    };
    one_line(&text)
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(true) => "true",
        Value::Bool(false) => "false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Set(_) => "a set",
        Value::Object(_) => "an object",
        Value::Undefined => "undefined",
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().filter(|c| !c.is_control()).take(MAX_SHOWN).collect()
}

/// Functions whose value is no longer than what goes in, and which depend on nothing else.
const FUNCTIONS: &[&str] = &[
    "abs",
    "ceil",
    "contains",
    "count",
    "endswith",
    "floor",
    "indexof",
    "intersection",
    "is_array",
    "is_boolean",
    "is_null",
    "is_number",
    "is_object",
    "is_set",
    "is_string",
    "lower",
    "max",
    "min",
    "object.get",
    "object.keys",
    "round",
    "startswith",
    "substring",
    "trim",
    "trim_prefix",
    "trim_suffix",
    "type_name",
    "upper",
];
const PACKAGE: &str = "data.casemate.appraisal";
const ALLOW: &str = "allow";
const DENY: &str = "deny";
const WARN: &str = "warn";
const STRICT_NAME: &str = "casemate-strict";
const MAX_MESSAGES: usize = 16;
const MAX_PARTS: usize = 16;
const MAX_SHOWN: usize = 400;
