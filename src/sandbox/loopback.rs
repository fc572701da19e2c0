//! Bringing up `lo` in a new network namespace, over netlink (rtnetlink(7)): Odoo listens there, PostgreSQL's
//! statistics once did. bubblewrap does it by itself; this is for the fallback.

use std::io;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Sets the flag "up" of interface 1, which `lo` always is.
///
/// # Errors
/// When the kernel refuses (no `CAP_NET_ADMIN` over this network namespace).
pub fn up() -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC;
    // No protocol is protocol 0, NETLINK_ROUTE.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    rustix::net::sendto(&socket, &request(), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0_u8; 512];
    let (received, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    // nlmsghdr, then `struct nlmsgerr`, whose first field is 0 or a negative errno.
    let code = answer.get(..received).and_then(|answer| answer.get(16..20)).and_then(|field| field.try_into().ok());
    match code.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// `struct nlmsghdr` (length, type, flags, sequence, port) and `struct ifinfomsg` (family, padding, type, index, flags, change).
fn request() -> [u8; 32] {
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST_ACK: u16 = 1 | 4;
    const IFF_UP: u32 = 1;
    let mut message = [0; 32];
    let fields: [&[u8]; 6] = [
        &32_u32.to_ne_bytes(),
        &RTM_NEWLINK.to_ne_bytes(),
        &NLM_F_REQUEST_ACK.to_ne_bytes(),
        &[0; 12], // sequence, port, family, padding, type
        &1_i32.to_ne_bytes(),
        &[IFF_UP.to_ne_bytes(), IFF_UP.to_ne_bytes()].concat(),
    ];
    for (to, from) in message.iter_mut().zip(fields.concat()) {
        *to = from;
    }
    message
}
