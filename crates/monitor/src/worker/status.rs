//! The status document.

use std::{fs, io::Write as _};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use super::{Worker, actions, scan};
use crate::{detector::Detector, kernel::Attached};

/// Version of the document.
const VERSION: u32 = 1;

/// Groups with what is in place and what is not.
pub(super) fn groups(attached: &Attached) -> Value {
    let groups = attached.iter().map(|(group, hooks)| {
        let there: Vec<&String> = hooks.iter().filter_map(|hook| hook.as_ref().ok()).collect();
        let missing: Vec<&String> = hooks.iter().filter_map(|hook| hook.as_ref().err()).collect();
        (json!(group).as_str().unwrap_or_default().to_owned(), json!({"hooks": there, "missing": missing}))
    });
    Value::Object(groups.collect::<Map<_, _>>())
}

impl Worker {
    /// How the monitor stands.
    pub(super) fn status(&self) -> Result<Value> {
        let mut detectors = Map::new();
        for detector in Detector::ALL {
            let count = self.sensors.count(*detector)?;
            let words = actions(&self.config, *detector).words();
            detectors.insert(detector.name().to_owned(), json!({"count": count, "actions": words}));
        }
        Ok(json!({
            "version": VERSION,
            "class": self.class,
            "groups": groups(&self.sensors.attached),
            "intact": self.sensors.intact(),
            "sealed": self.sensors.state()?.sealed,
            "ended": self.ended,
            "scan": self.found.json(),
            "static": scan::layer(),
            "instances": self.instances.keys().collect::<Vec<_>>(),
            "canary": self.canaries.as_ref().map(|one| one.last()),
            "detectors": detectors,
            "watchdog": {"silence_ms": self.config.watchdog().as_millis() as u64, "guard_silent_ms": self.silence.passed().as_millis() as u64,
                "agent_silence_ms": self.config.agent_silence().as_millis() as u64, "agent_silent_ms": self.agent_silence.passed().as_millis() as u64},
            "spool": {"path": self.config.spool(), "head": self.spool.head(), "reserve_bytes": self.spool.reserve_bytes()},
        }))
    }

    /// Replaces the file: readers see a whole one. A full disk keeps the old one; the spool has its own room.
    pub(super) fn write_status(&self) -> Result<()> {
        let (path, new) = (self.config.status(), self.config.state.join("status.new"));
        let text = serde_json::to_vec_pretty(&self.status()?).context("write the status")?;
        let written = fs::File::create(&new).and_then(|mut file| file.write_all(&text)).and_then(|()| fs::rename(&new, &path));
        if let Err(error) = written {
            eprintln!("warning: write {}: {error}", path.display());
        }
        Ok(())
    }
}
