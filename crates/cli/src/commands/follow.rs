//! Follows an instance's events and tells them to a person.

use std::collections::VecDeque;

use anyhow::Context as _;
use casemate_api::rest::{Event, Failure};
use casemate_lifecycle::Step;
use casemate_verifier::AttestationResult;

use crate::{client::Client, exit::Refused, printer::Printer, trust};

/// The events of one instance, in order, each told once.
pub(crate) struct Follower<'a> {
    client: &'a Client,
    printer: &'a Printer,
    instance: String,
    after: u64,
    told: String,
    /// Told already, and not looked at: one answer may carry more than what was waited for.
    news: VecDeque<News>,
    /// The receipt was stored, or nothing is left to be wiped. Kept here because one answer may carry failure and end.
    ended: bool,
}

/// What the next event means for whoever waits.
pub(crate) enum News {
    Reached(Step),
    Failed(Refused),
    Exited,
    Other,
}

impl<'a> Follower<'a> {
    pub(crate) fn new(client: &'a Client, printer: &'a Printer, instance: &str) -> Self {
        Self {
            client,
            printer,
            instance: instance.to_owned(),
            after: 0,
            told: String::new(),
            news: VecDeque::new(),
            ended: false,
        }
    }

    /// Waits until the instance reached `wanted`; a failure on the way is an error.
    pub(crate) async fn until_step(&mut self, wanted: Step) -> anyhow::Result<()> {
        loop {
            match self.next().await? {
                News::Reached(step) if step == wanted => return Ok(()),
                News::Reached(step) if step > wanted => return Err(self.why_it_ended(step).await?.into()),
                News::Failed(refused) => return Err(refused.into()),
                News::Reached(_) | News::Exited | News::Other => {}
            }
        }
    }

    /// The way down may be told before its reason.
    async fn why_it_ended(&self, step: Step) -> anyhow::Result<Refused> {
        let failure = self.client.instance(&self.instance).await?.failure;
        Ok(match failure {
            Some(failure) => Refused { check: failure.check, detail: crate::printer::clean(&failure.detail) },
            None => Refused { check: "stopped".into(), detail: format!("the instance is {step} already; somebody stopped it") },
        })
    }

    /// Waits until the instance has ended and its receipt, if there is to be one, is there.
    pub(crate) async fn until_end(&mut self) -> anyhow::Result<()> {
        while !self.ended {
            self.hear().await?;
        }
        Ok(())
    }

    /// Waits for a failure; for use beside another wait.
    pub(crate) async fn until_failure(&mut self) -> anyhow::Result<Refused> {
        loop {
            if let News::Failed(refused) = self.next().await? {
                return Ok(refused);
            }
        }
    }

    async fn next(&mut self) -> anyhow::Result<News> {
        loop {
            match self.news.pop_front() {
                Some(news) => return Ok(news),
                None => self.hear().await?,
            }
        }
    }

    /// Waits for events and tells them.
    async fn hear(&mut self) -> anyhow::Result<()> {
        let events = self.client.events(&self.instance, self.after).await?.events;
        for event in events {
            anyhow::ensure!(
                event.seq == self.after + 1,
                "the platform left out events of {}: {} after {}",
                self.instance,
                event.seq,
                self.after
            );
            self.after = event.seq;
            let news = self.tell(event)?;
            self.news.push_back(news);
        }
        Ok(())
    }

    fn tell(&mut self, event: Event) -> anyhow::Result<News> {
        match event.kind.as_str() {
            "step" => {
                let step = Step::parse(&event.text);
                if let Some(step) = step {
                    self.ended |= step == Step::Gone;
                    self.printer.done(step.as_str(), describe(step));
                }
                Ok(step.map_or(News::Other, News::Reached))
            }
            "verdict" => {
                let data = event.data.context("a verdict event has data")?;
                let result: AttestationResult = serde_json::from_value(data).context("understand the platform's verdict")?;
                trust::print_checks(self.printer, "platform", &result);
                Ok(News::Other)
            }
            "failure" => {
                let failure: Failure =
                    serde_json::from_value(event.data.unwrap_or_default()).context("understand a failure event")?;
                self.printer.failed("failure", &format!("{}: {}", failure.check, failure.detail));
                Ok(News::Failed(Refused { check: failure.check, detail: crate::printer::clean(&failure.detail) }))
            }
            "exit" => {
                self.printer.done("exit", &event.text);
                Ok(News::Exited)
            }
            "receipt" => {
                self.ended = true;
                Ok(News::Other)
            }
            kind => {
                // A node repeats its remarks with every report.
                if self.told != event.text {
                    self.printer.note(kind, &event.text);
                    self.told = event.text;
                }
                Ok(News::Other)
            }
        }
    }
}

fn describe(step: Step) -> &'static str {
    match step {
        Step::Requested => "the platform took the workload",
        Step::Scheduled => "a node was chosen",
        Step::Accepted => "the node checked the signed assignment",
        Step::Prepared => "image, scratch and jail are ready, and the vTPM where there is one",
        Step::Booted => "the guest answers",
        Step::Attested => "the platform verified the guest's evidence",
        Step::Keyed => "the guest opened the sealed keys",
        Step::Running => "the workload runs",
        Step::Stopping => "on the way down",
        Step::Wiped => "what the receipt lists is wiped",
        Step::Gone => "nothing is left on the node",
    }
}
