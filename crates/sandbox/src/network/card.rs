//! The card of a machine whose VMM opens it by a name of its own network namespace, or asks that namespace about it.
//!
//! ```text
//! VMM's namespace:  guest -- tap0 -- bridge -- link0 --veth-- cm9abc -- router namespace
//! ```
//!
//! The namespace passes frames on and has no address. Who is in it has no privilege over it, and finds nothing there but this.

use std::os::fd::OwnedFd;

use casemate_lifecycle::InstanceId;

use super::{Network, NetworkError, Place, address::Link};
use crate::sys;

/// The card's other end.
#[derive(Debug)]
pub(crate) struct Card(Place);

impl Card {
    /// Its name in the VMM's namespace.
    pub(crate) const TAP: &str = "tap0";

    /// A descriptor that frames are read and written by; the card has one at a time.
    pub(crate) fn open(&self) -> Result<OwnedFd, NetworkError> {
        self.0.within(|| sys::open_tap(Self::TAP))
    }
}

impl Network {
    /// Makes the card in the empty network namespace of a VMM, whose user may open it. It goes with the namespace.
    pub(crate) fn plug_vmm(&self, id: &InstanceId, pid: i32, user: u32) -> Result<Card, NetworkError> {
        let link = self.link(id)?;
        let inside = Place::of_process(pid)?;
        let (path, tap) = (inside.path(), Card::TAP);
        let Link { interface, mtu, .. } = &link;
        // It would announce itself by addresses that nobody gave it.
        inside.set("ipv6/conf/all/disable_ipv6", "1")?;
        inside.set("ipv6/conf/default/disable_ipv6", "1")?;
        self.router.ip(&format!("link add {interface} mtu {mtu} type veth peer name link0 netns {path} mtu {mtu}\n"))?;
        self.raise(&link)?;
        inside.ip(&format!(
            "tuntap add dev {tap} mode tap user {user} vnet_hdr
link set dev {tap} mtu {mtu}
link add name bridge type bridge forward_delay 0 mcast_snooping 0
link set dev {tap} master bridge
link set dev link0 master bridge
link set dev {tap} up
link set dev link0 up
link set dev bridge up
"
        ))?;
        Ok(Card(inside))
    }
}
