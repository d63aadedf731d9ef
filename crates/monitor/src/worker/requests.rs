//! Requests of the agent.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::{Agent, Worker};
use crate::control::{Answer, Request, parse};

impl Worker {
    /// Reads what there is and answers each line.
    pub(super) fn answer_agent(&mut self) -> Result<()> {
        let Some(Agent { control, lines, .. }) = &mut self.agent else { return Ok(()) };
        let mut bytes = [0; 4096];
        let length = match control.read(&mut bytes) {
            Ok(0) => bail!("the agent closed the control socket"),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("read a request of the agent"),
        };
        let whole = lines.take(&bytes[..length]).context("a request of the agent is too long")?;
        for line in whole {
            let answer = match parse(&line) {
                Ok(request) => self.answer(request)?,
                Err(why) => Answer::Refused { why },
            };
            let mut text = serde_json::to_vec(&answer).context("write an answer")?;
            text.push(b'\n');
            let Some(Agent { control, .. }) = &mut self.agent else { return Ok(()) };
            control.set_nonblocking(false).and_then(|()| control.write_all(&text)).context("answer the agent")?;
            control.set_nonblocking(true).context("answer the agent")?;
        }
        Ok(())
    }

    /// A refusal changes nothing; a failure to write down ends the monitor, and with it the instances.
    fn answer(&mut self, request: Request) -> Result<Answer> {
        let outcome = match request {
            Request::Watch(instance) => self.watch(&instance),
            Request::Unwatch { instance } => self.unwatch(&instance),
            Request::Alive {} => {
                self.agent_silence.end(Instant::now());
                return Ok(Answer::Done);
            }
            Request::Status {} => return Ok(Answer::Status { status: self.status()? }),
            Request::Clear {} => self.clear(),
            Request::Unseal { forced } => self.unseal(forced),
            Request::Seal {} => self.seal_again(),
            Request::Stop {} => self.stop(),
        };
        self.stale = true;
        Ok(match outcome {
            Ok(()) => Answer::Done,
            Err(error) => Answer::Refused { why: format!("{error:#}") },
        })
    }

    fn stop(&mut self) -> Result<()> {
        if !self.instances.is_empty() {
            bail!("stop: instances are watched (hint: end them first)");
        }
        self.record([json!({"kind": "stopped"})])?;
        self.set_sealed(false)?;
        if self.refuses() {
            self.sensors.unpin()?;
        }
        self.sensors.set_deadline(0)?;
        self.stopping = true;
        Ok(())
    }
}
