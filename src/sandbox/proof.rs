//! The proof that a sandbox has no way out: what is checked, and the host's half of it.
//!
//! The agent makes the checks from inside (`checks/`), before anything else runs there. It is told what to try: listeners that
//! the [`Witness`] opens on the host for this, and where the host's namespaces, sockets and mounts are. The witness then says
//! what it heard and saw itself, so that the proof does not rest on one side. A check that cannot be made has failed.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::path::PathBuf;

use super::Plan;

/// One thing that was tried, and how it went.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProofCheck {
    pub name: String,
    pub passed: bool,
    /// What was seen.
    pub detail: String,
}

impl ProofCheck {
    pub(super) fn new(name: impl Into<String>, passed: bool, detail: impl Into<String>) -> Self {
        Self { name: name.into(), passed, detail: detail.into() }
    }
}

/// All checks of one sandbox; goes into the evidence of a drill.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Proof {
    pub checks: Vec<ProofCheck>,
}

impl Proof {
    /// Whether every check passed, and there are some.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.passed)
    }

    /// The checks that did not pass.
    pub fn failed(&self) -> impl Iterator<Item = &ProofCheck> {
        self.checks.iter().filter(|check| !check.passed)
    }
}

/// The kinds of namespaces that must be the sandbox's own, as named in `/proc/self/ns`.
pub const NAMESPACES: [&str; 6] = ["user", "mnt", "pid", "net", "ipc", "uts"];

/// What the host tells the agent about itself, so that it can try to reach it.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Outside {
    /// `net` → `net:[4026531840]` and so on.
    pub namespaces: BTreeMap<String, String>,
    pub tcp: Vec<SocketAddr>,
    pub udp: Vec<SocketAddr>,
    /// A listener in the abstract namespace (unix(7)).
    pub abstract_name: String,
    /// Every socket of the host that is bound to a path.
    pub socket_paths: Vec<PathBuf>,
    /// A process of the host.
    pub pid: u32,
    /// What may be mounted inside, and whether it may be written to.
    pub mounts: Vec<(PathBuf, bool)>,
    pub dir: PathBuf,
}

/// Listeners on the host that nothing inside may reach.
#[derive(Debug)]
pub struct Witness {
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
    local: Vec<UnixListener>,
    _folder: tempfile::TempDir,
    pub outside: Outside,
}

impl Witness {
    /// Opens the listeners.
    ///
    /// # Errors
    /// When the host does not let us: without them the proof would be empty.
    pub fn open(plan: &Plan) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("lifeboat-witness-").tempdir()?;
        let named = folder.path().join("socket");
        let abstract_name = format!("lifeboat-witness-{}", folder.path().display());
        let local =
            vec![UnixListener::bind(&named)?, UnixListener::bind_addr(&UnixAddr::from_abstract_name(&abstract_name)?)?];
        let mut tcp = vec![TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?];
        let mut udp = vec![UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?];
        for address in further_addresses() {
            tcp.extend(TcpListener::bind((address, 0)));
            udp.extend(UdpSocket::bind((address, 0)));
        }
        for listener in &tcp {
            listener.set_nonblocking(true)?;
        }
        for socket in &udp {
            socket.set_nonblocking(true)?;
        }
        for listener in &local {
            listener.set_nonblocking(true)?;
        }
        let outside = Outside {
            namespaces: namespaces_of("self")?,
            tcp: tcp.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?,
            udp: udp.iter().map(UdpSocket::local_addr).collect::<io::Result<_>>()?,
            abstract_name,
            socket_paths: host_sockets()?,
            pid: std::process::id(),
            mounts: plan.mounts(),
            dir: plan.dir.clone(),
        };
        Ok(Self { tcp, udp, local, _folder: folder, outside })
    }

    /// What the host's side noticed while process `agent` (its number here) made the checks inside.
    #[must_use]
    pub fn testify(&self, plan: &Plan, agent: i32, uid: u32) -> Vec<ProofCheck> {
        let heard = self.tcp.iter().any(|listener| listener.accept().is_ok())
            || self.udp.iter().any(|socket| socket.recv(&mut [0; 64]).is_ok())
            || self.local.iter().any(|listener| listener.accept().is_ok());
        let own = match namespaces_of(&agent.to_string()) {
            Ok(seen) => NAMESPACES.iter().all(|kind| {
                let inside = seen.get(*kind);
                inside.is_some() && inside != self.outside.namespaces.get(*kind)
            }),
            Err(_) => false,
        };
        let heard_detail = if heard { "something from inside arrived" } else { "nothing arrived" };
        let asked_for = plan.owner.uid;
        vec![
            ProofCheck::new("seen from the host: listeners", !heard, heard_detail),
            ProofCheck::new("seen from the host: namespaces", own, format!("all its own: {own}")),
            ProofCheck::new("seen from the host: user", uid == asked_for && uid != 0, format!("uid {uid}")),
        ]
    }
}

/// The namespaces that a process of `/proc` is in.
pub(super) fn namespaces_of(process: &str) -> io::Result<BTreeMap<String, String>> {
    let one = |kind: &str| {
        let link = std::fs::read_link(format!("/proc/{process}/ns/{kind}"))?;
        Ok((kind.to_owned(), link.display().to_string()))
    };
    NAMESPACES.iter().map(|kind| one(kind)).collect()
}

/// The addresses this host would send from, besides 127.0.0.1. Connecting a UDP socket sends nothing; the
/// targets are documentation addresses (RFC 5737, RFC 3849).
fn further_addresses() -> Vec<IpAddr> {
    let source_towards = |any: IpAddr, target: SocketAddr| {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(target)?;
        socket.local_addr().map(|address| address.ip())
    };
    let v4 = source_towards(Ipv4Addr::UNSPECIFIED.into(), ROUTED[0]);
    let v6 = source_towards(Ipv6Addr::UNSPECIFIED.into(), ROUTED[1]);
    let mut addresses: Vec<IpAddr> = v4.into_iter().chain(v6).filter(|address| !address.is_loopback()).collect();
    addresses.push(Ipv6Addr::LOCALHOST.into());
    addresses
}

/// Addresses that only a default route leads to.
pub(super) const ROUTED: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 53),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 53),
];

/// The paths of all listening sockets of this network namespace (`/proc/net/unix`: `Num: RefCount Protocol Flags Type St Inode Path`).
fn host_sockets() -> io::Result<Vec<PathBuf>> {
    let text = std::fs::read("/proc/net/unix")?;
    let text = String::from_utf8_lossy(&text);
    let path = |line: &str| line.split_whitespace().nth(7).filter(|path| path.starts_with('/')).map(PathBuf::from);
    let mut paths: Vec<_> = text.lines().skip(1).filter_map(path).collect();
    paths.sort();
    paths.dedup();
    Ok(paths)
}
