//! Nodes that speak the real protocol and run nothing.

use std::{sync::Arc, time::Duration};

use casemate_api::node::{Heartbeat, NodeCredential, from_node, node_client::NodeClient};
use tokio::{sync::Semaphore, task::JoinSet, time::MissedTickBehavior};
use tonic::transport::Channel;

use crate::{
    node::{SoftNode, connect_to},
    platform::Vendor,
};

/// All of them.
pub(crate) struct Fleet {
    port: u16,
    ca_pem: Arc<str>,
    members: Vec<Member>,
    /// End with this.
    sessions: JoinSet<()>,
}

struct Member {
    node: SoftNode,
    credential: NodeCredential,
    channel: Option<Channel>,
}

impl Fleet {
    /// One for each token.
    pub(crate) async fn enrol(port: u16, ca_pem: &str, vendor: &Arc<Vendor>, tokens: Vec<String>) -> Self {
        let ca_pem: Arc<str> = ca_pem.into();
        let members = side_by_side(ENROLLING, tokens.into_iter().zip(0..), |(token, seed)| {
            let (vendor, ca_pem) = (Arc::clone(vendor), Arc::clone(&ca_pem));
            async move {
                let mut node = SoftNode::of(seed, &vendor);
                let channel = connect_to(port, &ca_pem, None).await.unwrap();
                let credential = node.enrol_on(channel, &token).await.unwrap();
                Member { node, credential, channel: None }
            }
        });
        Self { port, members: members.await, ca_pem, sessions: JoinSet::new() }
    }

    /// Opens the sessions; each node says that it lives from now on.
    pub(crate) async fn connect(&mut self) {
        let (port, members) = (self.port, std::mem::take(&mut self.members));
        let connected = side_by_side(AT_ONCE, members.into_iter(), |mut member| {
            let ca_pem = Arc::clone(&self.ca_pem);
            async move {
                let identity = Some((&member.credential, &member.node.tls_key));
                let channel = connect_to(port, &ca_pem, identity).await.unwrap();
                let opened = member.node.open_on(NodeClient::new(channel.clone()), &member.credential, Vec::new()).await;
                member.channel = Some(channel);
                (member, opened.unwrap().0)
            }
        });
        for (number, (member, mut session)) in connected.await.into_iter().enumerate() {
            self.members.push(member);
            self.sessions.spawn(async move {
                // Nodes that were started together do not all beat at the same moment.
                tokio::time::sleep(HEARTBEAT.mul_f64((number % 1000) as f64 / 1000.0)).await;
                let mut beat = tokio::time::interval(HEARTBEAT);
                beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    tokio::select! {
                        _ = beat.tick() => session.send(from_node::Message::Heartbeat(Heartbeat {})).await,
                        ended = session.end() => panic!("a session ended: {ended:?}"),
                    }
                }
            });
        }
    }

    /// New certificates for all of them, each over a new quote, as fast as the server gives them.
    pub(crate) async fn renew(&mut self) {
        let members = std::mem::take(&mut self.members);
        let renewed = side_by_side(AT_ONCE, members.into_iter(), |mut member| async move {
            let client = NodeClient::new(member.channel.clone().expect("it is connected"));
            member.credential = member.node.renew_on(client).await.unwrap();
            member
        });
        self.members = renewed.await;
    }
}

/// As many at a time as a server sees of a fleet that comes back after an outage, and no thundering herd in this process.
async fn side_by_side<I: Send + 'static, O: Send + 'static, F>(
    at_once: usize,
    items: impl Iterator<Item = I>,
    work: impl Fn(I) -> F,
) -> Vec<O>
where
    F: Future<Output = O> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(at_once));
    let mut tasks = JoinSet::new();
    for item in items {
        let permit = Arc::clone(&permits).acquire_owned().await.expect("nobody closes it");
        let work = work(item);
        tasks.spawn(async move {
            let _permit = permit;
            work.await
        });
    }
    tasks.join_all().await
}

const AT_ONCE: usize = 256;

/// The server takes no more at the same time than this, and a few.
const ENROLLING: usize = 16;

const HEARTBEAT: Duration = Duration::from_secs(15);
