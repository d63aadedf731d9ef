//! The network of instances on this node: what the configuration gives, and an instance's share of it.

use std::{collections::BTreeSet, fs, io, net::SocketAddr, path::Path, sync::Arc};

use anyhow::Context as _;
use casemate_api::{guest, workload::Workload};
use casemate_lifecycle::InstanceId;
use casemate_sandbox::network::{Link, Network, NetworkConfig, Place, Statistics, Uplink, make_router};

use crate::{config::Config, failure::chain, files::off_thread};

/// What the hoster gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The router's network namespace.
    pub(crate) router: String,
    pub(crate) uplink: Uplink,
    /// None given: those of the host.
    pub(crate) resolvers: Vec<SocketAddr>,
}

/// Makes the router or takes it up, and takes away what instances that nobody knows have left. Blocking.
pub(crate) fn open(config: &Config) -> anyhow::Result<Option<Arc<Network>>> {
    let state = config.state_dir.join("network");
    let Some(settings) = &config.network else {
        require_none_left(&state)?;
        return Ok(None);
    };
    let host = Place::here().context("find the host's network")?;
    let router = make_router(&host, &settings.router, &settings.uplink).context("make the router of instances")?;
    let resolvers = match settings.resolvers.as_slice() {
        [] => resolvers_of(&fs::read_to_string(RESOLV_CONF).unwrap_or_default()),
        given => given.to_vec(),
    };
    let opened = Network::open(NetworkConfig { state_dir: state, host, router, resolvers });
    let network = opened.context("open the network of instances")?;
    let known = fs::read_dir(config.instances_dir()).into_iter().flatten().flatten();
    let known: BTreeSet<InstanceId> = known.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    network.sweep(&known).context("take away what is left of networks")?;
    Ok(Some(Arc::new(network)))
}

/// Without a network nobody would take away what instances have of it, as the records in `state` say.
fn require_none_left(state: &Path) -> anyhow::Result<()> {
    let is_empty = match fs::read_dir(state) {
        Ok(mut records) => records.next().is_none(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(error).with_context(|| format!("read {}", state.display())),
    };
    anyhow::ensure!(
        is_empty,
        "instances still have a network, and [network] is no longer configured; hint: put it back and run casemate-agent drain first"
    );
    Ok(())
}

/// An instance's share, where its workload has a network: the message that its guest is told. What is left of an earlier try goes first.
pub(crate) async fn attach(
    network: Option<Arc<Network>>,
    id: &InstanceId,
    workload: &Workload,
) -> Result<Option<guest::Network>, String> {
    let Some(wanted) = &workload.network else { return Ok(None) };
    let policy = wanted.policy().map_err(|error| chain(&error))?;
    let network = network.ok_or("this node has no network for instances; hint: [network] in its agent's configuration")?;
    let resolves = policy.names().next().is_some();
    let id = id.clone();
    let link = off_thread(move || network.detach(&id).and_then(|_| network.attach(&id, &policy))).await;
    link.map(|link| Some(message(&link, resolves))).map_err(|error| chain(&error))
}

/// Takes away what the driver's wipe has left, which ends early where the driver has made nothing yet. Where nothing is left nothing is done.
pub(crate) async fn release(network: Option<Arc<Network>>, id: &InstanceId) {
    let Some(network) = network else { return };
    let left = id.clone();
    if let Err(error) = off_thread(move || network.detach(&left)).await {
        let error = chain(&error);
        tracing::error!(instance.id = %id, error, "could not take away the instance's network; a later agent does");
    }
}

/// What went over an instance's link so far, where it has one.
pub(crate) async fn statistics(network: Option<Arc<Network>>, id: &InstanceId) -> Option<Statistics> {
    let (network, asked) = (network?, id.clone());
    let counted = off_thread(move || network.statistics(&asked)).await;
    counted
        .inspect_err(|error| tracing::debug!(instance.id = %id, error = chain(error), "could not count the instance's packets"))
        .ok()
}

fn message(link: &Link, resolves: bool) -> guest::Network {
    guest::Network {
        address4: link.instance4.octets().into(),
        gateway4: link.node4.octets().into(),
        address6: link.instance6.octets().into(),
        gateway6: link.node6.octets().into(),
        mtu: link.mtu,
        resolves,
    }
}

/// The servers that the host asks itself.
fn resolvers_of(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok());
    servers.take(MOST_RESOLVERS).map(|address| SocketAddr::new(address, 53)).collect()
}

/// As the C library.
const MOST_RESOLVERS: usize = 3;

const RESOLV_CONF: &str = "/etc/resolv.conf";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_that_instances_still_have_is_not_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("network");
        assert!(require_none_left(&state).is_ok());
        fs::create_dir(&state).unwrap();
        assert!(require_none_left(&state).is_ok());
        fs::write(state.join("i-1.json"), "").unwrap();
        let error = require_none_left(&state).unwrap_err().to_string();
        assert!(error.contains("still have a network") && error.contains("hint:"), "{error}");
        assert!(require_none_left(&state.join("i-1.json")).is_err(), "what cannot be read is not taken for empty");
    }

    #[test]
    fn the_hosts_servers_are_found() {
        let text = "# x\nsearch a.b\nnameserver 192.0.2.1\n nameserver ::1\nnameserver fe80::1%eth0\nnameserver\noptions edns0\n";
        let found: Vec<String> = resolvers_of(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1:53", "[::1]:53"]);
    }
}
