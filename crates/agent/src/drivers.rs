//! The drivers of this node: which levels it really has, and who runs an instance.
//!
//! A driver that the configuration names and this machine cannot have (no program, a kernel that is too old) is not offered, and the
//! reason is in the inventory. Every driver has folders and user ids of its own, so that none takes another's instances for its own.

use std::{ffi::OsString, sync::Arc};

use anyhow::Context as _;
use casemate_api::{node, workload::Isolation};
use casemate_lifecycle::InstanceId;
use casemate_sandbox::{
    Driver, DriverError, Presence, Support, SystemKind,
    fake::{FakeConfig, FakeDriver},
    network::Network,
    oci::{OciConfig, OciDriver, Runtime},
    qemu::{AccelChoice, QemuConfig, QemuDriver},
};

use crate::{
    blueprint,
    config::{Accel, Config, DriverKind},
    failure, network,
    simulated::SimulatedGuests,
};

/// All drivers of this node, in the order of the configuration.
pub(crate) struct Drivers {
    available: Vec<Arc<dyn Driver>>,
    missing: Vec<Missing>,
    /// What all of them connect instances to; absent: instances have no network.
    network: Option<Arc<Network>>,
}

/// A driver that was asked for and cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missing {
    name: &'static str,
    level: Isolation,
    problem: String,
}

/// What a driver has of an instance.
pub(crate) struct Held {
    pub(crate) presence: Presence,
    pub(crate) driver: Arc<dyn Driver>,
}

impl Drivers {
    /// Sets up what the configuration names. Blocking.
    pub(crate) fn set_up(config: &Config) -> anyhow::Result<Self> {
        // Played machines have nothing that could be connected.
        let played = config.drivers.contains(&DriverKind::Fake);
        let network = if played { None } else { network::open(config)? };
        let (mut available, mut missing) = (Vec::new(), Vec::new());
        for kind in &config.drivers {
            match set_up(config, *kind, network.as_ref()) {
                Ok(driver) => available.push(driver),
                Err(error) if config.drivers.len() == 1 => return Err(error),
                Err(error) => {
                    let problem = format!("{error:#}");
                    tracing::warn!(driver.name = kind.name(), problem, "a driver of the configuration is not available");
                    missing.push(Missing { name: kind.name(), level: kind.level(), problem });
                }
            }
        }
        let drivers = Self { available, missing, network };
        anyhow::ensure!(!drivers.available.is_empty(), "none of the drivers is available: {}", drivers.problems().join("; "));
        Ok(drivers)
    }

    /// Of these alone.
    #[cfg(test)]
    pub(crate) fn of(available: Vec<Arc<dyn Driver>>) -> Self {
        Self { available, missing: Vec::new(), network: None }
    }

    /// Where instances get their links from.
    pub(crate) fn network(&self) -> Option<Arc<Network>> {
        self.network.clone()
    }

    /// The driver whose instances have exactly this level; the first in the configuration, where there are several.
    pub(crate) fn of_level(&self, level: Isolation) -> Option<&Arc<dyn Driver>> {
        let level = blueprint::isolation(level);
        self.available.iter().find(|driver| driver.capabilities().isolation == level)
    }

    /// The driver of this name.
    pub(crate) fn named(&self, name: &str) -> Option<&Arc<dyn Driver>> {
        self.available.iter().find(|driver| driver.capabilities().name == name)
    }

    /// The one that stands for the node where one has to: it runs machines, if any does.
    pub(crate) fn first(&self) -> &Arc<dyn Driver> {
        let machines = self.available.iter().find(|driver| driver.capabilities().system == SystemKind::Machine);
        machines.or(self.available.first()).expect("there is a driver; `set_up` made sure of it")
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<dyn Driver>> {
        self.available.iter()
    }

    /// Everything of which anything exists on this node.
    pub(crate) async fn list(&self) -> Result<Vec<(InstanceId, Held)>, DriverError> {
        let mut found = Vec::new();
        for driver in &self.available {
            let list = driver.list().await?;
            found.extend(list.into_iter().map(|(id, presence)| (id, Held { presence, driver: Arc::clone(driver) })));
        }
        Ok(found)
    }

    /// For the inventory.
    pub(crate) fn report(&self) -> Vec<node::Driver> {
        let available = self.available.iter().map(|driver| {
            let capabilities = driver.capabilities();
            node::Driver {
                name: capabilities.name.into(),
                level: capabilities.isolation.as_str().into(),
                version: capabilities.version.clone(),
                problem: String::new(),
                network: capabilities.features.network == Support::Yes,
            }
        });
        let missing = self.missing.iter().map(|missing| node::Driver {
            name: missing.name.into(),
            level: missing.level.as_str().into(),
            version: String::new(),
            problem: missing.problem.clone(),
            network: false,
        });
        available.chain(missing).collect()
    }

    fn problems(&self) -> Vec<String> {
        self.missing.iter().map(|missing| format!("{}: {}", missing.name, missing.problem)).collect()
    }
}

fn set_up(config: &Config, kind: DriverKind, network: Option<&Arc<Network>>) -> anyhow::Result<Arc<dyn Driver>> {
    match kind {
        DriverKind::Fake => {
            tracing::warn!("driver \"fake\": machines are only played, and nothing is isolated");
            let driver = FakeDriver::new(FakeConfig::new(machines(config)), Arc::new(SimulatedGuests::default()));
            Ok(Arc::new(driver.context("set up the fake driver")?))
        }
        DriverKind::Qemu => {
            let mut qemu = QemuConfig::new(machines(config), config.run_dir.clone(), jail());
            qemu.accel = match config.accel {
                Accel::Auto => AccelChoice::Auto,
                Accel::Kvm => AccelChoice::Kvm,
                Accel::Tcg => AccelChoice::Tcg,
            };
            qemu.network = network.cloned();
            qemu.cgroup.clone_from(&config.cgroup);
            Ok(Arc::new(QemuDriver::new(qemu).context("set up the QEMU driver")?))
        }
        DriverKind::Oci(runtime) => {
            let name = runtime.name();
            let (state, run) = (config.state_dir.join("containers").join(name), config.run_dir.join(name));
            let mut oci = OciConfig::new(state, run, jail(), runtime);
            oci.uid_base = user_ids(oci.uid_base, runtime, &config.runtimes);
            oci.network = network.cloned();
            oci.cgroup.clone_from(&config.cgroup);
            let driver = OciDriver::new(oci).map_err(|error| anyhow::anyhow!("{}", failure::chain(&error)));
            Ok(Arc::new(driver.with_context(|| format!("set up the driver of {name}"))?))
        }
    }
}

fn machines(config: &Config) -> std::path::PathBuf {
    config.state_dir.join("machines")
}

/// Not `current_exe`: its path may be that of a newer agent by now, or of none.
fn jail() -> Vec<OsString> {
    ["/proc/self/exe", "jail"].map(OsString::from).to_vec()
}

/// Each runtime has a range of its own: drivers know only their own instances.
fn user_ids(base: u32, runtime: Runtime, others: &[Runtime]) -> u32 {
    let place = Runtime::ALL.iter().chain(others).position(|one| one.name() == runtime.name()).unwrap_or_default();
    base.saturating_add(OciConfig::ALL_USERS.saturating_mul(u32::try_from(place).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use casemate_sandbox::{Isolation, oci::Compatible};

    use super::*;

    #[test]
    fn no_two_runtimes_share_users() {
        let other = |number: i32| Compatible {
            name: format!("other{number}"),
            program: "/other".into(),
            isolation: Isolation::Sandbox,
            arguments: Vec::new(),
            connected: Vec::new(),
        };
        let others: Vec<Runtime> = (0..6).map(|number| other(number).runtime().unwrap()).collect();
        let bases: Vec<u32> =
            Runtime::ALL.iter().chain(&others).map(|runtime| user_ids(0x4000_0000, *runtime, &others)).collect();
        for pair in bases.windows(2) {
            assert_eq!(pair[1] - pair[0], OciConfig::ALL_USERS);
        }
        assert!(bases.last().unwrap().checked_add(OciConfig::ALL_USERS).is_some());
    }
}
