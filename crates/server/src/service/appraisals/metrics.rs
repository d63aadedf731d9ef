//! Counters in the text format of Prometheus, version 0.0.4. No label names an instance, a node or a tenant.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Media type of the text.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Upper bounds of the buckets, in milliseconds.
const BUCKETS_MS: [u64; 11] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 5000];

/// What is counted as it happens.
#[derive(Debug, Default)]
pub(super) struct Metrics(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    appraisals: BTreeMap<(String, &'static str), u64>,
    failures: BTreeMap<String, u64>,
    refusals: BTreeMap<&'static str, u64>,
    // As many as there are bounds; larger ones are in the count only.
    buckets: [u64; BUCKETS_MS.len()],
    count: u64,
    sum: Duration,
}

/// What is looked up when somebody asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gauges {
    /// Challenges that could still be used.
    pub(super) challenges: u64,
    /// Serial and end of the revocation list, seconds since 1970.
    pub(super) revocations: Option<(u64, u64)>,
}

impl Metrics {
    /// An appraisal came to a verdict; `failed` names the check that refused it. Kinds and checks are names of the verifier.
    pub(super) fn judged(&self, kind: &str, failed: Option<&str>, took: Duration) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = if failed.is_none() { "accepted" } else { "refused" };
        *counts.appraisals.entry((kind.to_owned(), outcome)).or_default() += 1;
        if let Some(check) = failed {
            *counts.failures.entry(check.to_owned()).or_default() += 1;
        }
        for (bucket, bound) in counts.buckets.iter_mut().zip(BUCKETS_MS) {
            *bucket += u64::from(took <= Duration::from_millis(bound));
        }
        counts.count += 1;
        counts.sum = counts.sum.saturating_add(took);
    }

    /// A request came to no verdict; `reason` is the name of its problem.
    pub(super) fn refused(&self, reason: &'static str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.refusals.entry(reason).or_default() += 1;
    }

    /// The text.
    pub(super) fn text(&self, gauges: Gauges) -> String {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = Text::default();
        out.family("casemate_appraisals_total", "counter", "Appraisals that came to a verdict.");
        for ((kind, outcome), count) in &counts.appraisals {
            out.line(&format!("casemate_appraisals_total{{kind=\"{kind}\",outcome=\"{outcome}\"}}"), count);
        }
        out.family("casemate_appraisal_failures_total", "counter", "Refused appraisals by the check that failed.");
        for (check, count) in &counts.failures {
            out.line(&format!("casemate_appraisal_failures_total{{check=\"{check}\"}}"), count);
        }
        out.family("casemate_appraisal_requests_refused_total", "counter", "Requests for an appraisal without a verdict.");
        for (reason, count) in &counts.refusals {
            out.line(&format!("casemate_appraisal_requests_refused_total{{reason=\"{reason}\"}}"), count);
        }
        out.family("casemate_appraisal_seconds", "histogram", "Time of the judgement alone.");
        for (count, bound) in counts.buckets.iter().zip(BUCKETS_MS) {
            let bound = Duration::from_millis(bound).as_secs_f64();
            out.line(&format!("casemate_appraisal_seconds_bucket{{le=\"{bound}\"}}"), count);
        }
        out.line("casemate_appraisal_seconds_bucket{le=\"+Inf\"}", counts.count);
        out.line("casemate_appraisal_seconds_sum", counts.sum.as_secs_f64());
        out.line("casemate_appraisal_seconds_count", counts.count);
        out.family("casemate_challenges_outstanding", "gauge", "Challenges that could still be used.");
        out.line("casemate_challenges_outstanding", gauges.challenges);
        if let Some((serial, next_update)) = gauges.revocations {
            out.family("casemate_revocation_list_serial", "gauge", "Serial of the revocation list in force.");
            out.line("casemate_revocation_list_serial", serial);
            out.family("casemate_revocation_list_next_update_seconds", "gauge", "From this time on the list is worth nothing.");
            out.line("casemate_revocation_list_next_update_seconds", next_update);
        }
        out.0
    }
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn line(&mut self, series: &str, value: impl std::fmt::Display) {
        self.write(format_args!("{series} {value}\n"));
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("a string grows");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_verdicts_refusals_and_times() {
        let metrics = Metrics::default();
        metrics.judged("snp", None, Duration::from_millis(2));
        metrics.judged("snp", Some("snp.chain"), Duration::from_millis(400));
        metrics.judged("snp", Some("snp.chain"), Duration::from_secs(9));
        metrics.refused("busy");
        let text = metrics.text(Gauges { challenges: 3, revocations: Some((7, 1_790_000_000)) });
        for line in [
            "casemate_appraisals_total{kind=\"snp\",outcome=\"accepted\"} 1",
            "casemate_appraisals_total{kind=\"snp\",outcome=\"refused\"} 2",
            "casemate_appraisal_failures_total{check=\"snp.chain\"} 2",
            "casemate_appraisal_requests_refused_total{reason=\"busy\"} 1",
            "casemate_appraisal_seconds_bucket{le=\"0.001\"} 0",
            "casemate_appraisal_seconds_bucket{le=\"0.002\"} 1",
            "casemate_appraisal_seconds_bucket{le=\"0.5\"} 2",
            "casemate_appraisal_seconds_bucket{le=\"5\"} 2",
            "casemate_appraisal_seconds_bucket{le=\"+Inf\"} 3",
            "casemate_appraisal_seconds_sum 9.402",
            "casemate_appraisal_seconds_count 3",
            "casemate_challenges_outstanding 3",
            "casemate_revocation_list_serial 7",
            "casemate_revocation_list_next_update_seconds 1790000000",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        let bare = Metrics::default().text(Gauges { challenges: 0, revocations: None });
        assert!(!bare.contains("revocation") && bare.contains("casemate_challenges_outstanding 0\n"), "{bare}");
    }
}
