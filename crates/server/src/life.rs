//! What an event means for a stored instance: its course by [`lifecycle`], and events for the tenant. Pure; every change of an instance's state goes through [`happen`].

use casemate_lifecycle::{self as lifecycle, Course, Event, Failure, Intent, Step};
use serde_json::json;

use crate::store::{Instance, NewEvent};

/// Most notes of a node that are kept per instance.
const MAX_NOTES: u64 = 200;
/// Longest text of an event that a node can cause.
const MAX_TEXT: usize = 1000;

/// Applies one event.
pub(crate) fn happen(instance: &mut Instance, event: Event, out: &mut Vec<NewEvent>) {
    let before = instance.actual.clone();
    follow(instance, |course| course.happen(event));
    let after = &instance.actual;
    if after.step != before.step {
        out.push(NewEvent { kind: "step", text: after.step.to_string(), data: None });
    }
    if let (None, Some(code)) = (before.exit_code, after.exit_code) {
        let text = format!("the workload exited with status {code}");
        out.push(NewEvent { kind: "exit", text, data: Some(json!({ "exit_code": code })) });
    }
    if let (None, Some(failure)) = (&before.failure, &after.failure) {
        let data = json!({ "step": failure.step.as_str(), "check": failure.check, "detail": failure.detail });
        out.push(NewEvent { kind: "failure", text: format!("{}: {}", failure.check, failure.detail), data: Some(data) });
    }
}

/// Changes what should be; the node learns of it by the generation.
pub(crate) fn intend(instance: &mut Instance, intent: Intent) {
    follow(instance, |course| course.intend(intent));
}

fn follow(instance: &mut Instance, change: impl FnOnce(&mut Course)) {
    let mut course = Course {
        intent: instance.intent,
        generation: instance.generation,
        actual: std::mem::take(&mut instance.actual),
        keys_wait: instance.sealed_release.is_some(),
    };
    change(&mut course);
    if !course.keys_wait {
        instance.sealed_release = None;
    }
    (instance.intent, instance.generation, instance.actual) = (course.intent, course.generation, course.actual);
}

/// A failure that the platform saw.
pub(crate) fn fail(instance: &mut Instance, step: Step, check: &str, detail: impl Into<String>, out: &mut Vec<NewEvent>) {
    let failure = Failure { step, check: clipped(check, 100), detail: clipped(&detail.into(), MAX_TEXT) };
    happen(instance, Event::Failed(failure), out);
}

/// A remark of the node, for progress.
pub(crate) fn note(instance: &mut Instance, text: &str, out: &mut Vec<NewEvent>) {
    if !text.is_empty() && instance.notes < MAX_NOTES {
        instance.notes += 1;
        out.push(NewEvent { kind: "note", text: clipped(text, MAX_TEXT), data: None });
    }
}

/// The instance is wiped: if nothing ended it before, it was stopped.
pub(crate) fn wiped(instance: &mut Instance, out: &mut Vec<NewEvent>) {
    for event in lifecycle::wiped(&instance.actual) {
        happen(instance, event, out);
    }
}

/// The step after this one: what was being attempted.
pub(crate) fn next_step(step: Step) -> Step {
    Step::ALL.into_iter().find(|next| *next > step).unwrap_or(Step::Gone)
}

/// The text without control characters, at most `max` bytes of it.
pub(crate) fn clipped(text: &str, max: usize) -> String {
    let mut out = String::new();
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if out.len() + c.len_utf8() > max {
            break;
        }
        out.push(c);
    }
    out
}
