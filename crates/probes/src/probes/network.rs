//! Networks and sockets.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr as UnixAddress, UnixStream},
    },
    time::Duration,
};

use super::{Outcome, granted};
use crate::sys;

pub(super) fn raw_sockets(_: &[i32]) -> Outcome {
    let socket = |family: i32, kind: i32, protocol: i32| {
        let numbers = [family, kind, protocol].map(|number| u64::try_from(number).unwrap_or_default());
        sys::call(libc::SYS_socket, [numbers[0], numbers[1], numbers[2], 0, 0]).map(|descriptor| drop(sys::own(descriptor)))
    };
    match granted("a packet socket", socket(libc::AF_PACKET, libc::SOCK_RAW, 0)) {
        through @ Outcome::Through(_) => through,
        _ => granted("a raw socket", socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)),
    }
}

pub(super) fn metadata(_: &[i32]) -> Outcome {
    reach(Ipv4Addr::new(169, 254, 169, 254), &[80])
}

pub(super) fn host_ports(_: &[i32]) -> Outcome {
    match gateway(&fs::read_to_string("/proc/net/route").unwrap_or_default()) {
        Some(host) => reach(host, &PORTS),
        None => Outcome::Absent("there is no way to any other machine".to_owned()),
    }
}

pub(super) fn host_sockets(_: &[i32]) -> Outcome {
    let mut refused = None;
    for path in SOCKETS {
        match UnixStream::connect(path) {
            Ok(_) => return Outcome::Through(format!("{path} answers")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => refused = Some(format!("{path}: {error}")),
        }
    }
    refused.map_or_else(|| Outcome::Absent("none is there".to_owned()), Outcome::Blocked)
}

pub(super) fn abstract_sockets(_: &[i32]) -> Outcome {
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let mut refused = None;
    for name in table.lines().filter_map(|line| line.split_once(" @")).map(|(_, name)| name) {
        let connected = UnixAddress::from_abstract_name(name).and_then(|address| UnixStream::connect_addr(&address));
        match connected {
            Ok(_) => return Outcome::Through(format!("@{name} answers")),
            Err(error) => refused = Some(format!("@{name}: {error}")),
        }
    }
    refused.map_or_else(|| Outcome::Absent("none is seen".to_owned()), Outcome::Blocked)
}

pub(super) fn host_vsock(_: &[i32]) -> Outcome {
    let answer = sys::call(libc::SYS_socket, [libc::AF_VSOCK as u64, libc::SOCK_STREAM as u64, 0, 0, 0]);
    let Ok(number) = answer else { return granted("a vsock", answer) };
    let socket = sys::own(number);
    // struct sockaddr_vm: family, port, number of the machine (2 is the host).
    let mut address = [0_u8; 16];
    address[..2].copy_from_slice(&40_u16.to_ne_bytes());
    address[4..8].copy_from_slice(&1024_u32.to_ne_bytes());
    address[8..12].copy_from_slice(&2_u32.to_ne_bytes());
    let connected = sys::call_with(libc::SYS_connect, number as u64, &mut address, [16, 0, 0]);
    drop(socket);
    // Whoever refuses was reached.
    let refused = [io::ErrorKind::ConnectionRefused, io::ErrorKind::ConnectionReset];
    match connected {
        Err(error) if refused.contains(&error.kind()) => Outcome::Through("the host refused: it was reached".to_owned()),
        answer => granted("the host's port 1024", answer),
    }
}

/// Whether one of the ports answers.
fn reach(host: Ipv4Addr, ports: &[u16]) -> Outcome {
    let mut refused = String::new();
    for port in ports {
        let address = SocketAddr::V4(SocketAddrV4::new(host, *port));
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(_) => return Outcome::Through(format!("{address} answers")),
            Err(error) => refused = format!("{address}: {error}"),
        }
    }
    Outcome::Blocked(refused)
}

/// Of the kernel's table: the gateway of the route to everywhere.
fn gateway(routes: &str) -> Option<Ipv4Addr> {
    routes.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let everywhere = fields.get(1) == Some(&"00000000");
        let gateway = u32::from_str_radix(fields.get(2)?, 16).ok().filter(|gateway| everywhere && *gateway != 0)?;
        Some(Ipv4Addr::from(gateway.to_ne_bytes()))
    })
}

/// A packet that is dropped is not waited for any longer.
const PATIENCE: Duration = Duration::from_millis(700);

/// Of what runs on hosts: remote access, web, containers, clusters.
const PORTS: [u16; 8] = [22, 53, 80, 443, 2375, 6443, 8443, 10_250];

const SOCKETS: [&str; 6] = [
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/podman/podman.sock",
    "/run/systemd/private",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_gateway() {
        let table = "Iface\tDestination\tGateway\tFlags\n\
                     eth0\t0000FEA9\t00000000\t0001\n\
                     eth0\t00000000\t0100A8C0\t0003\n";
        assert_eq!(gateway(table), Some(Ipv4Addr::new(192, 168, 0, 1)));
        assert_eq!(gateway("Iface\n"), None);
        assert_eq!(gateway("Iface\nx\t00000000\tzz\n"), None);
    }
}
