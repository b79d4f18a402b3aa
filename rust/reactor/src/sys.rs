//! The system calls that no safe library offers: `recvmmsg` and `sendmmsg`. The only unsafe code here.
//!
//! Both work on arrays that a batch owns and that the kernel fills for one call; addresses go through
//! `sockaddr_storage`, copied in and out as plain bytes of the right family.
#![allow(unsafe_code)]

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Datagrams of one call: what one round of a busy loop finds; 64 slots cost 128 KB a socket.
pub const DATAGRAMS_A_CALL: usize = 64;
/// Bytes of a slot; a longer datagram is cut, which its length shows: nothing of ours is that long.
pub const SLOT_BYTES: usize = 2_048;

/// A vacant message header.
fn empty_header() -> libc::mmsghdr {
    // SAFETY: mmsghdr is plain data for which all bits zero mean: no name, no buffers, no control.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

fn empty_address() -> libc::sockaddr_storage {
    // SAFETY: plain data; all bits zero is the family AF_UNSPEC.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Room for the datagrams of one receive.
pub struct Receiver {
    buffer: Vec<u8>,
    addresses: Vec<libc::sockaddr_storage>,
    lengths: Vec<usize>,
    headers: Vec<libc::mmsghdr>,
    slices: Vec<libc::iovec>,
}

// SAFETY: the pointers in `headers` and `slices` are written anew before each call and not read after
// it; everything else is plain data.
unsafe impl Send for Receiver {}

impl Default for Receiver {
    fn default() -> Self {
        Self {
            buffer: vec![0; DATAGRAMS_A_CALL * SLOT_BYTES],
            addresses: vec![empty_address(); DATAGRAMS_A_CALL],
            lengths: Vec::with_capacity(DATAGRAMS_A_CALL),
            headers: vec![empty_header(); DATAGRAMS_A_CALL],
            slices: vec![
                libc::iovec {
                    iov_base: std::ptr::null_mut(),
                    iov_len: 0
                };
                DATAGRAMS_A_CALL
            ],
        }
    }
}

impl Receiver {
    /// Receives what is there, at most [`DATAGRAMS_A_CALL`]; gives how many.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing, else what the kernel says.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.lengths.clear();
        let address_bytes = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        for (index, slot) in self.buffer.chunks_exact_mut(SLOT_BYTES).enumerate() {
            self.slices[index] = libc::iovec {
                iov_base: slot.as_mut_ptr().cast(),
                iov_len: SLOT_BYTES,
            };
            let header = &mut self.headers[index];
            *header = empty_header();
            header.msg_hdr.msg_name = (&raw mut self.addresses[index]).cast();
            header.msg_hdr.msg_namelen = address_bytes;
            header.msg_hdr.msg_iov = &raw mut self.slices[index];
            header.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: every header points at one slot and one address of this object, which live and are
        // borrowed for the whole call; the count is that of the headers; no time-out is passed.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                DATAGRAMS_A_CALL as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        let lengths = self.headers[..count]
            .iter()
            .map(|header| header.msg_len as usize);
        self.lengths
            .extend(lengths.map(|length| length.min(SLOT_BYTES)));
        Ok(count)
    }

    /// Datagram `index` of the last receive, and where it comes from.
    pub fn datagram(&mut self, index: usize) -> Option<(SocketAddr, &mut [u8])> {
        let length = *self.lengths.get(index)?;
        let from = read_address(&self.addresses[index])?;
        Some((from, &mut self.buffer[index * SLOT_BYTES..][..length]))
    }
}

/// Datagrams on their way out.
#[derive(Default)]
pub struct Sender {
    arena: Vec<u8>,
    items: Vec<(SocketAddr, usize, usize)>,
    sent: usize,
}

impl Sender {
    /// Whether another datagram fits into the batch.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.items.len() < DATAGRAMS_A_CALL
    }

    /// Whether everything went out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Adds a datagram; ask `has_room` first.
    pub fn push(&mut self, to: SocketAddr, bytes: &[u8]) {
        self.items.push((to, self.arena.len(), bytes.len()));
        self.arena.extend_from_slice(bytes);
    }

    /// Sends the batch. Gives how many went out and how many the kernel refused for good; what is left
    /// waits until the socket is writable.
    pub fn send(&mut self, socket: BorrowedFd<'_>) -> (usize, usize) {
        let (mut out, mut refused) = (0, 0);
        while self.sent < self.items.len() {
            match self.send_once(socket) {
                Ok(count) => {
                    out += count;
                    self.sent += count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return (out, refused),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // About the first datagram, or an earlier one's answer (ICMP): the others may be fine.
                Err(_) => {
                    refused += 1;
                    self.sent += 1;
                }
            }
        }
        self.items.clear();
        self.arena.clear();
        self.sent = 0;
        (out, refused)
    }

    fn send_once(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut addresses = [empty_address(); DATAGRAMS_A_CALL];
        let mut slices = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }; DATAGRAMS_A_CALL];
        let mut headers = [empty_header(); DATAGRAMS_A_CALL];
        let items = &self.items[self.sent..];
        for (index, (to, start, length)) in items.iter().enumerate() {
            let bytes = &self.arena[*start..*start + *length];
            slices[index] = libc::iovec {
                iov_base: bytes.as_ptr().cast_mut().cast(),
                iov_len: bytes.len(),
            };
            let header = &mut headers[index].msg_hdr;
            header.msg_namelen = write_address(*to, &mut addresses[index]);
            header.msg_name = (&raw mut addresses[index]).cast();
            header.msg_iov = &raw mut slices[index];
            header.msg_iovlen = 1;
        }
        // SAFETY: the headers in use point at addresses and slices of this frame and at bytes of the
        // arena, all alive and unchanged for the call; the kernel only reads the bytes.
        let count = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                items.len() as libc::c_uint,
                (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
            )
        };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }
}

fn read_address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the storage, which is larger and aligned for all families,
            // holds a sockaddr_in; every bit pattern of it is valid.
            let v4 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above, for sockaddr_in6.
            let v6 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            Some(SocketAddr::V6(SocketAddrV6::new(
                ip,
                port,
                v6.sin6_flowinfo,
                v6.sin6_scope_id,
            )))
        }
        _ => None,
    }
}

/// Writes the address and gives its length.
fn write_address(address: SocketAddr, storage: &mut libc::sockaddr_storage) -> libc::socklen_t {
    match address {
        SocketAddr::V4(v4) => {
            // SAFETY: the storage is larger than a sockaddr_in and aligned for it.
            let to = unsafe { &mut *(&raw mut *storage).cast::<libc::sockaddr_in>() };
            write_v4(v4, to);
            mem::size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(v6) => {
            // SAFETY: the storage is larger than a sockaddr_in6 and aligned for it.
            let to = unsafe { &mut *(&raw mut *storage).cast::<libc::sockaddr_in6>() };
            to.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            to.sin6_port = v6.port().to_be();
            to.sin6_flowinfo = v6.flowinfo();
            to.sin6_addr.s6_addr = v6.ip().octets();
            to.sin6_scope_id = v6.scope_id();
            mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}

fn write_v4(v4: SocketAddrV4, to: &mut libc::sockaddr_in) {
    to.sin_family = libc::AF_INET as libc::sa_family_t;
    to.sin_port = v4.port().to_be();
    to.sin_addr.s_addr = u32::from(*v4.ip()).to_be();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    fn batch_crosses(address: &str) {
        let (a, b) = (
            UdpSocket::bind(address).unwrap(),
            UdpSocket::bind(address).unwrap(),
        );
        let mut sender = Sender::default();
        let to = b.local_addr().unwrap();
        while sender.has_room() {
            let length = sender.items.len() * 20;
            sender.push(to, &vec![length as u8; length]);
        }
        assert_eq!(sender.send(a.as_fd()), (DATAGRAMS_A_CALL, 0));
        assert!(sender.is_empty());
        let mut receiver = Receiver::default();
        let mut got = 0;
        while got < DATAGRAMS_A_CALL {
            let count = receiver.receive(b.as_fd()).unwrap();
            for index in 0..count {
                let (from, bytes) = receiver.datagram(index).unwrap();
                assert_eq!(from, a.local_addr().unwrap());
                assert_eq!(bytes, vec![(got * 20) as u8; got * 20]);
                got += 1;
            }
        }
        assert!(receiver.datagram(DATAGRAMS_A_CALL).is_none());
        assert_eq!(
            receiver.receive(b.as_fd()).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    }

    #[test]
    fn batches_cross_on_both_families() {
        batch_crosses("127.0.0.1:0");
        batch_crosses("[::1]:0");
    }

    #[test]
    fn a_datagram_that_can_not_go_does_not_hold_the_others() {
        let (a, b) = (
            UdpSocket::bind("127.0.0.1:0").unwrap(),
            UdpSocket::bind("127.0.0.1:0").unwrap(),
        );
        let mut sender = Sender::default();
        let to = b.local_addr().unwrap();
        sender.push(to, b"first");
        sender.push("[::1]:9".parse().unwrap(), b"of another family");
        sender.push(to, &[0; 70_000]);
        sender.push(to, b"last");
        assert_eq!(sender.send(a.as_fd()), (2, 2));
        let mut receiver = Receiver::default();
        assert_eq!(receiver.receive(b.as_fd()).unwrap(), 2);
        assert_eq!(receiver.datagram(1).unwrap().1, b"last");
    }
}
