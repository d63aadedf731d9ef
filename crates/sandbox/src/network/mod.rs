//! The network of instances: a link for each, behind rules that drop whatever no rule allows.
//!
//! ```text
//! container: eth0 --veth-- cm1234 \
//! machine:   virtio --tap-- cm5678 -- router namespace: rules, resolver -- up0 -- what the host gives
//! the same, with a VMM that wants the card in its own namespace: card.rs
//! ```
//!
//! What is made is written down first. The rules are there before the link and go after it, so that there is no moment without them.
//! A link lives as long as the container or machine at its end; what an agent left that died half-way is taken away by
//! [`Network::sweep`]. All calls block.

mod address;
mod card;
pub mod decoders;
mod place;
mod record;
mod resolver;
mod router;
mod ruleset;

pub use address::{Link, MAX_SLOTS, Mac};
pub(crate) use card::Card;
pub use place::Place;
pub use resolver::Names;
pub use router::{Uplink, is_interface_name, make_router, parse_interface_address};

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use casemate_lifecycle::{
    InstanceId,
    network::{Policy, PolicyError},
};
use serde_json::Value;

use self::{
    record::{Record, Records},
    resolver::Resolver,
};
use crate::{Demand, DriverError, Plan, Support, sys};

/// Why the network could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The policy cannot be held.
    #[error("the instance's network policy")]
    Policy(#[from] PolicyError),
    /// All addresses are taken.
    #[error("{MAX_SLOTS} instances have a network on this node, which is the limit")]
    Full,
    /// A port of the node leads to another instance.
    #[error("port {0} of the node is published by instance {1}")]
    PortTaken(u16, InstanceId),
    /// The instance has one.
    #[error("instance {0} has a network already")]
    Attached(InstanceId),
    /// The instance has none.
    #[error("instance {0} has no network here")]
    NotAttached(InstanceId),
    /// The host did not give what it said it would.
    #[error(
        "take the interface {interface} from the host for the network of instances (hint: make it first, for example: \
         ip link add {interface} link eth0 type macvlan mode private)"
    )]
    Uplink {
        /// Its name.
        interface: String,
        /// Why not.
        #[source]
        source: Box<NetworkError>,
    },
    /// A namespace, or something in it.
    #[error("use the network namespace or parameter {}", path.display())]
    Namespace {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// What was written down.
    #[error("{attempt} the record of a network {}", path.display())]
    Record {
        /// What was attempted.
        attempt: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A tool refused.
    #[error("{program} failed: {detail}")]
    Tool {
        /// The command.
        program: String,
        /// What it said.
        detail: String,
    },
}

/// What went over an instance's link, as the packet filter counted it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// What it sent with its own addresses and within its limit.
    pub sent: Traffic,
    /// What it sent and was dropped.
    pub send_dropped: Traffic,
    /// What was sent to it.
    pub received: Traffic,
    /// What of that was dropped.
    pub receive_dropped: Traffic,
    /// What it asked the resolver.
    pub names: Names,
}

/// A number of packets, and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// With headers from the network layer up.
    pub bytes: u64,
    /// How many.
    pub packets: u64,
}

/// How the network is set up.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// For what must survive a restart of the agent; on disk.
    pub state_dir: PathBuf,
    /// The host's own namespace, whose addresses no instance reaches.
    pub host: Place,
    /// The namespace that forwards, see [`make_router`].
    pub router: Place,
    /// Who is asked for names, from the caller's namespace.
    pub resolvers: Vec<SocketAddr>,
}

/// The networks of all instances of a node.
#[derive(Debug)]
pub struct Network {
    host: Place,
    router: Place,
    records: Records,
    resolver: Resolver,
    servers: Arc<[SocketAddr]>,
    /// One change at a time: slots are chosen from what is there.
    turn: Mutex<()>,
}

impl Network {
    /// Loads the rules that all instances share, and answers the questions of those that are there. Fails where a tool is missing.
    pub fn open(config: NetworkConfig) -> Result<Self, NetworkError> {
        let NetworkConfig { state_dir, host, router, resolvers } = config;
        router::prepare(&router)?;
        let started = Resolver::start(router.clone());
        let resolver = started.map_err(|source| NetworkError::Namespace { path: router.path().into(), source })?;
        let records = Records::open(&state_dir)?;
        let network = Self { host, router, records, resolver, servers: resolvers.into(), turn: Mutex::default() };
        network.refresh()?;
        for (id, record) in network.records.all()? {
            let taken_up = record.map(|record| Ok((record.link(&id), record.policy()?)));
            match taken_up.transpose() {
                Ok(Some((link, policy))) => network.resolver.serve(&link, &policy, &network.servers)?,
                Ok(None) => tracing::warn!(instance.id = %id, "the record of its network is damaged; it finds no names any more"),
                Err::<_, NetworkError>(error) => return Err(error),
            }
        }
        Ok(network)
    }

    /// Rules and a place for an instance's link, which [`plug`](Self::plug) or [`plug_machine`](Self::plug_machine)
    /// makes; on failure nothing is left of them.
    pub fn attach(&self, id: &InstanceId, policy: &Policy) -> Result<Link, NetworkError> {
        policy.check()?;
        let _turn = self.turn();
        let records = self.records.all()?;
        let interface = Link::interface(id);
        let listing = self.rules()?;
        if records.contains_key(id) || ruleset::interfaces(&listing).contains(&interface) || self.links()?.contains(&interface) {
            return Err(NetworkError::Attached(id.clone()));
        }
        self.free_ports(&records, policy)?;
        let taken = router::own_addresses(&[&self.router])?;
        let record = Record::new(free_slot(id, &records, &taken)?, router::mtu(&self.router)?, policy);
        let link = record.link(id);
        self.refresh()?;
        let made = self.records.save(id, &record).and_then(|()| {
            self.router.nft(&ruleset::of_instance(&link, policy))?;
            self.resolver.serve(&link, policy, &self.servers)
        });
        if made.is_err()
            && let Err(error) = self.remove(id)
        {
            tracing::error!(instance.id = %id, %error, "what was made of a network could not be removed; it will be swept");
        }
        made.map(|()| link)
    }

    /// Gives the network namespace of a process the interface `eth0`, with its addresses and routes. The process can be a container's
    /// first one before it runs anything: it needs no privilege over the namespace to use it, and gets none.
    pub(crate) fn plug_process(&self, id: &InstanceId, pid: i32) -> Result<(), NetworkError> {
        self.plug(id, &Place::of_process(pid)?)
    }

    /// The same for a namespace.
    pub fn plug(&self, id: &InstanceId, inside: &Place) -> Result<(), NetworkError> {
        let link = self.link(id)?;
        let Link { interface, mtu, mac, node4, instance4, node6, instance6 } = &link;
        let path = inside.path();
        self.router
            .ip(&format!("link add {interface} mtu {mtu} type veth peer name eth0 netns {path} address {mac} mtu {mtu}\n"))?;
        self.raise(&link)?;
        // Its users have no privileges, and the ports are theirs alone.
        inside.set("ipv4/ip_unprivileged_port_start", "0")?;
        inside.ip(&format!(
            "link set dev lo up
addr add {instance4}/31 dev eth0
addr add {instance6}/127 dev eth0 nodad
link set dev eth0 up
route add default via {node4} dev eth0
route add default via {node6} dev eth0
"
        ))
    }

    /// A descriptor that a VMM reads and writes Ethernet frames by. The interface lives as long as somebody holds it.
    pub fn plug_machine(&self, id: &InstanceId) -> Result<OwnedFd, NetworkError> {
        let link = self.link(id)?;
        let tap = self.router.within(|| sys::open_tap(&link.interface))?;
        self.router.ip(&format!("link set dev {} mtu {}\n", link.interface, link.mtu))?;
        self.raise(&link)?;
        Ok(tap)
    }

    /// The node's end of a link.
    fn raise(&self, link: &Link) -> Result<(), NetworkError> {
        let Link { interface, mac, node4, instance4, node6, instance6, .. } = link;
        self.router.ip(&format!(
            "addr add {node4}/31 dev {interface}
addr add {node6}/127 dev {interface} nodad
link set dev {interface} up
neigh replace {instance4} lladdr {mac} dev {interface} nud permanent
neigh replace {instance6} lladdr {mac} dev {interface} nud permanent
"
        ))
    }

    /// The content of the file that says who is asked for names: the node's end of the link, where there are rules by name.
    pub(crate) fn resolver_file(&self, id: &InstanceId) -> Result<String, NetworkError> {
        let record = self.records.all()?.remove(id).flatten().ok_or_else(|| NetworkError::NotAttached(id.clone()))?;
        match record.policy()?.names().next() {
            Some(_) => Ok(format!("nameserver {}\n", record.link(id).node4)),
            None => Ok(String::new()),
        }
    }

    /// The link of an instance that has one.
    pub fn link(&self, id: &InstanceId) -> Result<Link, NetworkError> {
        let record = self.records.all()?.remove(id).flatten();
        record.map(|record| record.link(id)).ok_or_else(|| NetworkError::NotAttached(id.clone()))
    }

    /// Takes away everything of an instance's network, and says whether there was anything.
    pub fn detach(&self, id: &InstanceId) -> Result<bool, NetworkError> {
        let _turn = self.turn();
        self.remove(id)
    }

    /// Takes away everything of instances that are not named.
    pub fn sweep(&self, keep: &BTreeSet<InstanceId>) -> Result<(), NetworkError> {
        let _turn = self.turn();
        let kept: BTreeSet<String> = keep.iter().map(Link::interface).collect();
        for id in self.records.all()?.keys().filter(|id| !keep.contains(*id)) {
            self.remove(id)?;
        }
        let known = self.links()?.into_iter().chain(ruleset::interfaces(&self.rules()?));
        known.filter(|interface| !kept.contains(interface)).try_for_each(|interface| self.remove_interface(&interface).map(drop))
    }

    /// The instances that have a network.
    pub fn attached(&self) -> Result<BTreeSet<InstanceId>, NetworkError> {
        Ok(self.records.all()?.into_keys().collect())
    }

    /// What went over the link of an instance since it was made.
    pub fn statistics(&self, id: &InstanceId) -> Result<Statistics, NetworkError> {
        let interface = Link::interface(id);
        let rules = self.rules()?;
        let counted = |name: String| {
            let (bytes, packets) = ruleset::counted(&rules, &name).ok_or_else(|| NetworkError::NotAttached(id.clone()))?;
            Ok::<_, NetworkError>(Traffic { bytes, packets })
        };
        Ok(Statistics {
            sent: counted(format!("from_{interface}"))?,
            send_dropped: counted(format!("from_{interface}_dropped"))?,
            received: counted(format!("to_{interface}"))?,
            receive_dropped: counted(format!("to_{interface}_dropped"))?,
            names: self.resolver.names(&interface),
        })
    }

    /// The record goes last: while it is there, somebody comes back for the rest.
    fn remove(&self, id: &InstanceId) -> Result<bool, NetworkError> {
        let existed = self.remove_interface(&Link::interface(id))? | self.records.all()?.contains_key(id);
        self.records.remove(id)?;
        Ok(existed)
    }

    /// First the link, then the rules that guard it.
    fn remove_interface(&self, interface: &str) -> Result<bool, NetworkError> {
        self.resolver.forget(interface);
        let linked = self.links()?.contains(interface);
        if linked {
            // It may just have gone by itself, with the container at its other end.
            let removed = self.router.ip(&format!("link del {interface}\n"));
            if self.links()?.contains(interface) {
                removed?;
            }
        }
        let rules = ruleset::without(interface, &self.rules()?);
        if !rules.is_empty() {
            self.router.nft(&rules)?;
        }
        Ok(linked || !rules.is_empty())
    }

    /// The shared rules, with the addresses that the node has now.
    fn refresh(&self) -> Result<(), NetworkError> {
        let own = router::own_addresses(&[&self.host, &self.router])?;
        self.router.nft(&ruleset::base(&own.into_iter().collect()))
    }

    fn free_ports(&self, records: &BTreeMap<InstanceId, Option<Record>>, policy: &Policy) -> Result<(), NetworkError> {
        for (id, record) in records {
            let Some(other) = record.as_ref().and_then(|record| record.policy().ok()) else { continue };
            let taken = policy.published.iter().find(|port| {
                other.published.iter().any(|other| other.node_port == port.node_port && other.protocol == port.protocol)
            });
            if let Some(port) = taken {
                return Err(NetworkError::PortTaken(port.node_port, id.clone()));
            }
        }
        Ok(())
    }

    /// Our interfaces, by the kernel's word.
    fn links(&self) -> Result<BTreeSet<String>, NetworkError> {
        let interfaces = self.router.ask_ip(&["link", "show"])?;
        let names = interfaces.as_array().into_iter().flatten().filter_map(|interface| interface["ifname"].as_str());
        Ok(names.filter(|name| is_ours(name)).map(str::to_owned).collect())
    }

    fn rules(&self) -> Result<Value, NetworkError> {
        let table: Vec<&str> = ["list", "table"].into_iter().chain(ruleset::TABLE.split(' ')).collect();
        self.router.ask_nft(&table)
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a driver with this can connect its instances.
pub(crate) fn support(network: Option<&Network>) -> Support {
    match network {
        Some(_) => Support::Yes,
        None => Support::no(
            "this node has no network for instances; hint: [network] in the agent's configuration, see docs/network.md",
        ),
    }
}

/// What a plan needs of it.
pub(crate) fn of<'a>(network: Option<&'a Network>, plan: &Plan) -> Result<Option<&'a Network>, DriverError> {
    if !plan.demands.contains(&Demand::Network) {
        return Ok(None);
    }
    match support(network) {
        Support::Yes => Ok(network),
        Support::No(reason) => Err(DriverError::Unsupported { what: Demand::Network.to_string(), reason }),
    }
}

/// One that no record has, and no link either whose record is damaged.
fn free_slot(id: &InstanceId, records: &BTreeMap<InstanceId, Option<Record>>, taken: &[IpAddr]) -> Result<u16, NetworkError> {
    let recorded: BTreeSet<u16> = records.values().flatten().map(|record| record.slot).collect();
    let is_free = |slot: &u16| !recorded.contains(slot) && !taken.contains(&Link::of(id, *slot, 0).node4.into());
    (0..MAX_SLOTS).find(is_free).ok_or(NetworkError::Full)
}

/// Our names are the prefix and twelve hex digits.
fn is_ours(name: &str) -> bool {
    let digits = name.strip_prefix(ruleset::PREFIX);
    digits.is_some_and(|digits| digits.len() == 12 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
