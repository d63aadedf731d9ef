//! Names and addresses of an instance's link, all from its id and its slot.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use casemate_lifecycle::InstanceId;
use sha2::{Digest as _, Sha256};

use super::ruleset::PREFIX;

/// Instances with a network on one node.
pub const MAX_SLOTS: u16 = 4096;
/// The pool of IPv4: a part of the range for carriers (RFC 6598), which the networks of homes and offices do not use. Two addresses a slot.
const POOL4: Ipv4Addr = Ipv4Addr::new(100, 127, 0, 0);
/// The pool of IPv6: unique local addresses (RFC 4193).
const POOL6: Ipv6Addr = Ipv6Addr::new(0xfdca, 0x5e3a, 0x7e00, 0, 0, 0, 0, 0);

/// One instance's link: an interface of the node, and the one of the instance at its other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The node's interface: at most 15 characters, as the kernel wants it.
    pub interface: String,
    /// Largest packet.
    pub mtu: u32,
    /// The instance's hardware address.
    pub mac: Mac,
    /// The node's address, the instance's gateway.
    pub node4: Ipv4Addr,
    /// The instance's address.
    pub instance4: Ipv4Addr,
    /// The node's address, the instance's gateway.
    pub node6: Ipv6Addr,
    /// The instance's address.
    pub instance6: Ipv6Addr,
}

/// A hardware address, locally administered (IEEE 802, 8.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac([u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Mac {
    /// That of an instance.
    pub fn of(id: &InstanceId) -> Self {
        let digest = Sha256::digest(id.as_str());
        Self([0x02, digest[6], digest[7], digest[8], digest[9], digest[10]])
    }

    /// Its bytes, as they are on the wire.
    pub fn bytes(&self) -> [u8; 6] {
        self.0
    }
}

impl Link {
    /// The interface of an instance on the node.
    pub fn interface(id: &InstanceId) -> String {
        format!("{PREFIX}{}", hex::encode(&Sha256::digest(id.as_str())[..6]))
    }

    /// The link of an instance in a slot below [`MAX_SLOTS`] that no other instance has.
    pub fn of(id: &InstanceId, slot: u16, mtu: u32) -> Self {
        let pair = u32::from(slot) * 2;
        let at6 = |last: u32| Ipv6Addr::from_bits(POOL6.to_bits() + u128::from(pair + last));
        let at4 = |last: u32| Ipv4Addr::from_bits(POOL4.to_bits() + pair + last);
        Self {
            interface: Self::interface(id),
            mtu,
            mac: Mac::of(id),
            node4: at4(0),
            instance4: at4(1),
            node6: at6(0),
            instance6: at6(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use casemate_lifecycle::network::is_forbidden;

    use super::*;

    #[test]
    fn no_two_slots_share_an_address_and_no_instance_may_reach_one() {
        let id: InstanceId = "i-1".parse().unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for slot in 0..MAX_SLOTS {
            let link = Link::of(&id, slot, 1500);
            for address in [link.node4.into(), link.instance4.into(), link.node6.into(), link.instance6.into()] {
                assert!(seen.insert(address), "{address}");
                assert!(is_forbidden(address), "{address}");
            }
        }
    }

    #[test]
    fn names_fit_the_kernel() {
        let long: InstanceId = "i".repeat(63).parse().unwrap();
        let link = Link::of(&long, 1, 1500);
        assert!(link.interface.len() <= 15, "{}", link.interface);
        assert_ne!(link.interface, Link::of(&"i-1".parse().unwrap(), 1, 1500).interface);
    }
}
