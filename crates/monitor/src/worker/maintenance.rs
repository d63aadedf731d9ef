//! Maintenance: the lawful way to change a node. What the configuration names is not guarded meanwhile, and no instance is watched.

use std::fs;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::{Worker, scan::setting};
use crate::config::OnFindings;

impl Worker {
    /// Begins it. The monitor itself, its record and its pins stay guarded.
    pub(super) fn unseal(&mut self, forced: bool) -> Result<()> {
        if !self.sensors.state()?.sealed {
            bail!("begin maintenance: it has begun already");
        }
        if !self.instances.is_empty() && !forced {
            bail!("begin maintenance: instances are watched (hint: end them first, or force it)");
        }
        if !self.instances.is_empty() {
            self.end_instances("maintenance is forced")?;
        }
        // Written down before anything is open.
        self.record([json!({"kind": "unsealed", "forced": forced})])?;
        // Its acts are lawful now.
        self.canaries = None;
        self.set_sealed(false)?;
        self.release_configured();
        let kept = self.restore_layer();
        if kept.is_empty() { Ok(()) } else { self.record([json!({"kind": "settings_kept", "names": kept})]) }
    }

    /// Ends it: what the configuration names is guarded as it is now, after a look at what others hold of it.
    pub(super) fn seal_again(&mut self) -> Result<()> {
        if self.sensors.state()?.sealed {
            bail!("end maintenance: there is none");
        }
        if let Err(error) = self.close() {
            self.canaries = None;
            self.set_sealed(false)?;
            self.release_configured();
            return Err(error.context("end maintenance"));
        }
        self.record([json!({"kind": "sealed"})])
    }

    fn close(&mut self) -> Result<()> {
        self.label_configured()?;
        self.set_sealed(true)?;
        if !self.look()? && self.config.scan == OnFindings::Refuse {
            bail!("others hold what is guarded: {} (hint: end them)", self.found.json());
        }
        self.set_layer()?;
        if self.refuses() {
            self.canaries = Some(self.start_canaries()?);
        }
        Ok(())
    }

    /// What was held open for its label's sake is let go.
    fn release_configured(&mut self) {
        for file in std::mem::take(&mut self.configured) {
            // One that has no label has none to end.
            let _ = self.sensors.unlabel_file(&file);
            if let Ok(place) = super::scan::place(&file) {
                self.guarded.remove(&place);
            }
        }
    }

    /// Settings as they were; the names of those that the kernel does not take back before a reboot.
    fn restore_layer(&mut self) -> Vec<String> {
        let before = std::mem::take(&mut self.layer_before);
        before.into_iter().filter(|(name, value)| fs::write(setting(name), value).is_err()).map(|(name, _)| name).collect()
    }

    /// Sets what the configuration says, and remembers what there was.
    pub(super) fn set_layer(&mut self) -> Result<()> {
        for (name, value) in &self.config.settings {
            let path = setting(name);
            let before = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            fs::write(&path, value.to_string()).with_context(|| format!("set {name} to {value} by {}", path.display()))?;
            self.layer_before.insert(name.clone(), before.trim().to_owned());
        }
        Ok(())
    }
}
