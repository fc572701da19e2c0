//! Listeners on the host that nothing in a sandbox may reach, and what they heard.
//!
//! They stand on the host's loopback and on the address that the host would send from, TCP and UDP. A probe lets something
//! inside try to reach them; silence here, together with an attempt that was made there, is the proof.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use crate::failure::{Failure, Kind};

#[derive(Debug)]
pub struct Ear {
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
}

impl Ear {
    /// Opens the listeners.
    ///
    /// # Errors
    /// When the host does not let us: without them silence would say nothing.
    pub fn open() -> Result<Self, Failure> {
        let opened = || -> io::Result<Self> {
            let mut ear = Self { tcp: Vec::new(), udp: Vec::new() };
            for address in addresses() {
                ear.tcp.push(TcpListener::bind((address, 0))?);
                ear.udp.push(UdpSocket::bind((address, 0))?);
            }
            ear.tcp.iter().try_for_each(|listener| listener.set_nonblocking(true))?;
            ear.udp.iter().try_for_each(|socket| socket.set_nonblocking(true))?;
            Ok(ear)
        };
        opened().map_err(|error| {
            Failure::new(Kind::Failed, "this machine", format!("cannot listen: {error}"), "see the cause")
        })
    }

    /// Where to try by TCP.
    #[must_use]
    pub fn tcp(&self) -> Vec<SocketAddr> {
        self.tcp.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Where to try by UDP.
    #[must_use]
    pub fn udp(&self) -> Vec<SocketAddr> {
        self.udp.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }

    /// Where something arrived since the last time; empty when nothing did.
    #[must_use]
    pub fn heard(&self) -> Vec<SocketAddr> {
        let of_tcp = self.tcp.iter().filter(|listener| {
            let mut any = false;
            while listener.accept().is_ok() {
                any = true;
            }
            any
        });
        let of_udp = self.udp.iter().filter(|socket| {
            let mut any = false;
            while socket.recv(&mut [0; 64]).is_ok() {
                any = true;
            }
            any
        });
        of_tcp.filter_map(|l| l.local_addr().ok()).chain(of_udp.filter_map(|s| s.local_addr().ok())).collect()
    }
}

/// 127.0.0.1, and the address this host would send from. Connecting a UDP socket sends nothing; the target is a
/// documentation address (RFC 5737).
fn addresses() -> Vec<IpAddr> {
    let routed = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| socket.connect((Ipv4Addr::new(198, 51, 100, 1), 53)).and_then(|()| socket.local_addr()));
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    addresses.extend(routed.ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified()));
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_hears_a_connection_and_a_datagram_each_once() {
        let ear = Ear::open().unwrap();
        assert!(ear.heard().is_empty());
        let (tcp, udp) = (ear.tcp()[0], ear.udp()[0]);
        drop(std::net::TcpStream::connect(tcp).unwrap());
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", udp).unwrap();
        assert_eq!(ear.heard(), vec![tcp, udp]);
        assert!(ear.heard().is_empty());
    }
}
