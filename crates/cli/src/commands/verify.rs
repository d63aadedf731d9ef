//! `casemate verify`: the same appraisal that `run` makes, on demand or offline, and that of a request which holds all that is
//! needed to judge it.

use std::{
    fs,
    io::{IsTerminal as _, Read as _},
    path::Path,
};

use anyhow::Context as _;
use casemate_verifier::{
    AttestationResult, Simulated, UnixTime,
    rego::{self, AppraisalPolicy},
    request::{MAX_REQUEST, Pinned, Request, Response},
};
use serde::Deserialize;

use crate::{
    args::{Format, Globals, Verify},
    client::Client,
    commands::endorsements::{self, Collector},
    context::{self, ContextFile},
    exit::{Hinted, Status, Usage},
    instance_keys::InstanceKeys,
    printer, resolve,
    trust::{self, SavedEvidence, Trust},
};

pub(crate) async fn run(globals: &Globals, args: Verify) -> anyhow::Result<Status> {
    let rules = args.policy.as_deref().map_or_else(|| Ok(AppraisalPolicy::strict()), load_policy)?;
    let json = globals.json || args.output == Format::Json;
    endorsements::require_meaning(&args)?;
    let Some(instance) = &args.instance else {
        let Some(path) = &args.evidence else {
            return from_stdin(globals, &args, &rules).await;
        };
        let mut bytes = read_bounded(path)?;
        if is_request(&bytes) {
            if args.fetch {
                bytes = with_fetched(&bytes, &args).await?;
            }
            let request = Request::from_json(&bytes).with_context(|| format!("read {}", path.display()))?;
            return answer(&judge(&request, &args, &rules), &rules, json);
        }
        if args.fetch {
            let message = format!("{} is no request, so there is nothing to fetch for it", path.display());
            let hint =
                "saved evidence of an instance rests on its node's TPM, whose certificates the platform hands out".to_owned();
            return Err(Hinted { message, hint }.into());
        }
        let context = ContextFile::load(globals)?;
        let saved = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is neither saved evidence nor a request", path.display()))?;
        return decide(&context, rules, &saved, args.at, json);
    };
    let context = ContextFile::load(globals)?;
    let saved = ask(&context, instance).await?;
    if let Some(path) = &args.save {
        context::write_private(path, &serde_json::to_vec_pretty(&saved)?)?;
    }
    decide(&context, rules, &saved, args.at, json)
}

/// One request on standard input, one answer on standard output.
async fn from_stdin(globals: &Globals, args: &Verify, rules: &AppraisalPolicy) -> anyhow::Result<Status> {
    if !globals.json || args.save.is_some() || std::io::stdin().is_terminal() {
        let message = "give an INSTANCE, --evidence FILE, or --json and a request on standard input".to_owned();
        return Err(Usage(message).into());
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_REQUEST).context("the limit is small")? + 1;
    std::io::stdin().lock().take(limit).read_to_end(&mut bytes).context("read the request")?;
    let request = match asked(bytes, args).await {
        Ok(request) => request,
        Err(error) => {
            printer::json(&serde_json::json!({ "error": format!("{error:#}") }))?;
            return Ok(Status::Error);
        }
    };
    let response = judge(&request, args, rules);
    printer::json(&response)?;
    Ok(if response.accepted { Status::Ok } else { Status::Refused })
}

async fn asked(mut bytes: Vec<u8>, args: &Verify) -> anyhow::Result<Request> {
    if args.fetch && bytes.len() <= MAX_REQUEST {
        bytes = with_fetched(&bytes, args).await?;
    }
    Ok(Request::from_json(&bytes)?)
}

/// The request with what the vendors publish now. The network decides what can be shown, never what is accepted.
async fn with_fetched(bytes: &[u8], args: &Verify) -> anyhow::Result<Vec<u8>> {
    let mut request = serde_json::from_slice(bytes).context("the request is not JSON")?;
    Collector::new(&args.fetching)?.fill(&mut request).await.context("fetch endorsements")?;
    Ok(request.to_string().into_bytes())
}

/// Everything is the asker's: nothing is pinned here, and a simulator is accepted if the request says so.
fn judge(request: &Request, args: &Verify, rules: &AppraisalPolicy) -> Response {
    let pinned = Pinned { anchors: None, references: None, rules, revocations: None, simulated: Simulated::Allow };
    request.judge(&pinned, args.at.or(request.at()).unwrap_or_else(trust::now))
}

fn answer(response: &Response, rules: &AppraisalPolicy, json: bool) -> anyhow::Result<Status> {
    if json {
        printer::json(response)?;
    } else {
        print(&response.result, rules)?;
    }
    trust::require_accepted(&response.result)?;
    Ok(Status::Ok)
}

fn decide(
    context: &ContextFile,
    rules: AppraisalPolicy,
    saved: &SavedEvidence,
    at: Option<UnixTime>,
    json: bool,
) -> anyhow::Result<Status> {
    let trust = Trust::load(context)?.with_rules(rules);
    let result = trust.appraise(saved, at.unwrap_or_else(trust::now))?;
    if json {
        printer::json(&result)?;
    } else {
        print(&result, trust.rules())?;
    }
    trust::require_accepted(&result)?;
    Ok(Status::Ok)
}

async fn ask(context: &ContextFile, instance: &str) -> anyhow::Result<SavedEvidence> {
    let client = Client::new(context)?;
    // Somebody else's instance can be judged, too, but then the platform says which workload it runs.
    let known = client.instance(instance).await.context("ask for the workload")?;
    let workload_digest = match InstanceKeys::load(instance) {
        Ok(keys) => keys.workload_digest.clone(),
        Err(_) => known.workload_digest,
    };
    // Held against the digest when it is judged.
    let workload = Some(known.workload);
    let nonce = resolve::random32()?;
    let bundle = client.challenge(instance, &nonce).await?;
    anyhow::ensure!(bundle.instance == instance, "asked for evidence of {instance}, got {}", bundle.instance);
    let revocations = client.revocations().await?;
    Ok(SavedEvidence { nonce: hex::encode(nonce), workload_digest, received_at: trust::now().0, bundle, workload, revocations })
}

/// A time as people write it: seconds since 1970, or RFC 3339.
pub(crate) fn parse_time(text: &str) -> Result<UnixTime, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(UnixTime(seconds));
    }
    let date = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
        .map_err(|_| "expected seconds since 1970 or a time such as 2026-01-31T12:00:00Z".to_owned())?;
    u64::try_from(date.unix_timestamp()).map(UnixTime).map_err(|_| "expected a time after 1970".to_owned())
}

fn load_policy(path: &Path) -> anyhow::Result<AppraisalPolicy> {
    let attempt = || format!("read the policy {}", path.display());
    let length = fs::metadata(path).with_context(attempt)?.len();
    anyhow::ensure!(length <= rego::MAX_TEXT as u64, "{} is longer than {} bytes", path.display(), rego::MAX_TEXT);
    let text = fs::read_to_string(path).with_context(attempt)?;
    let name = path.file_stem().map(|name| printer::clean(&name.to_string_lossy())).unwrap_or_default();
    AppraisalPolicy::compile(&name, &text).with_context(|| format!("use the policy {}", path.display()))
}

fn read_bounded(path: &Path) -> anyhow::Result<Vec<u8>> {
    let attempt = || format!("read {}", path.display());
    let mut bytes = Vec::new();
    fs::File::open(path).with_context(attempt)?.take(MAX_REQUEST as u64 + 1).read_to_end(&mut bytes).with_context(attempt)?;
    anyhow::ensure!(bytes.len() <= MAX_REQUEST, "{} is longer than {MAX_REQUEST} bytes", path.display());
    Ok(bytes)
}

/// A request names its kind; saved evidence has none.
fn is_request(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Kind {
        #[serde(rename = "kind")]
        _kind: serde::de::IgnoredAny,
    }
    serde_json::from_slice::<Kind>(bytes).is_ok()
}

fn print(result: &AttestationResult, rules: &AppraisalPolicy) -> anyhow::Result<()> {
    let rows: Vec<Vec<String>> =
        result.checks.iter().map(|c| vec![c.outcome.to_string(), c.name.to_string(), c.detail.clone()]).collect();
    printer::table(&["OUTCOME", "CHECK", "SEEN"], &rows)?;
    println!();
    for anchor in &result.anchors {
        println!("anchor: {} {}: {}", anchor.kind, printer::clean(&anchor.subject), printer::clean(&anchor.proved));
    }
    for warning in &result.warnings {
        println!("note: {}", printer::clean(warning));
    }
    // The built-in rules have no say in a lone device.
    if result.checks.iter().any(|check| check.name == "policy.appraisal") {
        println!("policy: {}", rules.id());
    }
    let best = !result.is_affirming() && result.is_accepted();
    let best = if best { format!(", the best that level {} can have", result.platform) } else { String::new() };
    println!("verdict: {}{best}{}", result.status, if result.simulated { " (rests on a simulator)" } else { "" });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_rfc_3339() {
        assert_eq!(parse_time("1780272000").unwrap(), UnixTime(1_780_272_000));
        assert_eq!(parse_time("2026-06-01T00:00:00Z").unwrap(), UnixTime(1_780_272_000));
        assert_eq!(parse_time("2026-06-01T02:00:00+02:00").unwrap(), UnixTime(1_780_272_000));
        for bad in ["", "yesterday", "2026-06-01", "-1", "1960-01-01T00:00:00Z"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_request_is_known_by_its_kind() {
        assert!(is_request(br#"{"kind": "unheard-of", "version": 9}"#));
        assert!(!is_request(br#"{"nonce": "", "bundle": {}}"#) && !is_request(b"kind"));
    }
}
