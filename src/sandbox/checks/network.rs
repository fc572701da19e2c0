//! Every way to send something out is tried.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::time::Duration;

use crate::sandbox::proof::{Outside, ProofCheck, ROUTED};

/// How long a connection may take before it counts as impossible; the listeners are on this machine.
const PATIENCE: Duration = Duration::from_secs(1);

pub fn checks(outside: &Outside) -> Vec<ProofCheck> {
    let mut checks = vec![interfaces(), loopback()];
    for address in &outside.tcp {
        let tried = TcpStream::connect_timeout(address, PATIENCE);
        checks.push(refused(format!("no TCP to the host's {address}"), &tried));
    }
    for address in &outside.udp {
        checks.push(udp(address));
    }
    for target in &ROUTED {
        let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let tried = UdpSocket::bind(any).and_then(|socket| socket.connect(target));
        checks.push(refused(format!("no route to {}", target.ip()), &tried));
    }
    let abstract_socket = UnixAddr::from_abstract_name(&outside.abstract_name);
    let tried = abstract_socket.and_then(|address| UnixStream::connect_addr(&address));
    checks.push(refused("no abstract sockets of the host".into(), &tried));
    checks.push(named_sockets(outside));
    checks
}

fn refused<T>(name: String, tried: &io::Result<T>) -> ProofCheck {
    match tried {
        Ok(_) => ProofCheck::new(name, false, "it worked"),
        Err(error) => ProofCheck::new(name, true, error.to_string()),
    }
}

/// proc(5), `/proc/net/dev`: two lines of heading, then `name: counters`.
fn interfaces() -> ProofCheck {
    let text = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let names: Vec<_> = text.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
    ProofCheck::new("only the loopback interface", names == ["lo"], names.join(" "))
}

/// What runs inside needs it to talk to itself; a sandbox where it is down fails later and less clearly.
fn loopback() -> ProofCheck {
    let tried =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| TcpStream::connect(listener.local_addr()?));
    let detail = tried.as_ref().err().map_or_else(|| "connected".to_owned(), ToString::to_string);
    ProofCheck::new("loopback works inside", tried.is_ok(), detail)
}

/// Sending to a closed port of one's own loopback "works"; an answer of "refused" to the second try shows that nobody listens.
fn udp(address: &SocketAddr) -> ProofCheck {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let tried = UdpSocket::bind(any).and_then(|socket| {
        socket.connect(address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send(b"lifeboat")?;
        socket.recv(&mut [0; 16])
    });
    let unreachable = tried.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock);
    let detail = tried.err().map_or_else(|| "answered".to_owned(), |error| error.to_string());
    ProofCheck::new(format!("no UDP to the host's {address}"), unreachable, detail)
}

/// A socket with a path can be connected to from any network namespace that sees the path.
fn named_sockets(outside: &Outside) -> ProofCheck {
    let reached: Vec<_> = outside.socket_paths.iter().filter(|path| UnixStream::connect(path).is_ok()).collect();
    let detail = match reached.first() {
        Some(path) => format!("{} of the host's can be reached, such as {}", reached.len(), path.display()),
        None => format!("none of {} can be reached", outside.socket_paths.len()),
    };
    ProofCheck::new("no sockets of the host", reached.is_empty(), detail)
}
