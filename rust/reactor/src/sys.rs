//! The system calls that no safe library offers: `recvmmsg` and `sendmmsg`, with datagrams joined (GSO, GRO).
//! The only unsafe code here.
//!
//! Both work on arrays that a batch owns and that the kernel fills for one call; addresses go through
//! `sockaddr_storage`, copied in and out as plain bytes of the right family.
#![allow(unsafe_code)]

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use zmqgame_core::edge::shares::Shares;

/// Datagrams of one call: what one round of a busy loop finds.
pub const DATAGRAMS_A_CALL: usize = 64;
/// The longest datagram there is, and the most that the kernel hands over joined (GRO) or takes joined (GSO).
pub const MOST_DATAGRAM_BYTES: usize = 65_535;
/// Datagrams that one buffer may be cut into (the kernel's UDP_MAX_SEGMENTS of all versions).
const SEGMENTS_A_BUFFER: usize = 64;
/// Bytes of one joined send: the IP datagram's limit less the largest headers.
const JOINED_BYTES: usize = 65_000;
/// Slots of a batch don't lie a power of two apart: they would all fall into the same cache lines.
const SLOT_SKEW_BYTES: usize = 192;

/// A vacant message header.
fn empty_header() -> libc::mmsghdr {
    // SAFETY: mmsghdr is plain data for which all bits zero mean: no name, no buffers, no control.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

fn empty_address() -> libc::sockaddr_storage {
    // SAFETY: plain data; all bits zero is the family AF_UNSPEC.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

const NO_SLICE: libc::iovec = libc::iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

/// Room for one control message with a number, aligned as `cmsghdr` is.
type Control = [u64; 4];

/// Asks the kernel to hand datagrams of one sender over joined. Gives whether it will.
pub fn join_received(socket: BorrowedFd<'_>) -> bool {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int that lives for the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_GRO,
            (&raw const on).cast(),
            mem::size_of_val(&on) as libc::socklen_t,
        )
    };
    result == 0
}

/// What one slot holds after a receive.
pub struct Datagrams<'a> {
    /// Who sent them.
    pub from: SocketAddr,
    /// One datagram, or several of one length joined, of which the last may be shorter.
    pub bytes: &'a mut [u8],
    /// The length of each; that of `bytes` if there is one.
    pub each: usize,
    /// Whether the datagram was longer than a slot: its end is lost.
    pub cut: bool,
}

/// Room for the datagrams of one receive.
pub struct Receiver {
    slot_bytes: usize,
    buffer: Vec<u8>,
    addresses: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
    headers: Vec<libc::mmsghdr>,
    slices: Vec<libc::iovec>,
    /// How many slots the last receive filled.
    filled: usize,
}

// SAFETY: the pointers in `headers` and `slices` lead into this object's own heap, which does not move
// with it, and only `receive`, which borrows it mutably, lets the kernel follow them.
unsafe impl Send for Receiver {}

impl Receiver {
    /// Slots for datagrams of at most `longest_bytes`; what is longer is cut. A socket that joins needs
    /// [`MOST_DATAGRAM_BYTES`]. Pages that nothing was received into cost no memory.
    #[must_use]
    pub fn new(longest_bytes: usize) -> Self {
        let slot_bytes = longest_bytes.clamp(1, MOST_DATAGRAM_BYTES);
        let stride = slot_bytes.next_multiple_of(64) + SLOT_SKEW_BYTES;
        let mut receiver = Self {
            slot_bytes,
            buffer: vec![0; DATAGRAMS_A_CALL * stride],
            addresses: vec![empty_address(); DATAGRAMS_A_CALL],
            controls: vec![[0; 4]; DATAGRAMS_A_CALL],
            headers: vec![empty_header(); DATAGRAMS_A_CALL],
            slices: vec![NO_SLICE; DATAGRAMS_A_CALL],
            filled: DATAGRAMS_A_CALL,
        };
        for (index, slot) in receiver.buffer.chunks_exact_mut(stride).enumerate() {
            receiver.slices[index] = libc::iovec {
                iov_base: slot.as_mut_ptr().cast(),
                iov_len: slot_bytes,
            };
            let header = &mut receiver.headers[index].msg_hdr;
            header.msg_name = (&raw mut receiver.addresses[index]).cast();
            header.msg_iov = &raw mut receiver.slices[index];
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut receiver.controls[index]).cast();
        }
        receiver
    }

    /// Receives what is there, at most [`DATAGRAMS_A_CALL`] slots; gives how many.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing, else what the kernel says.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        for header in &mut self.headers[..self.filled] {
            header.msg_hdr.msg_namelen =
                mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_hdr.msg_controllen = mem::size_of::<Control>() as _;
        }
        self.filled = 0;
        // SAFETY: every header points at one slot, one address and one control of this object's heap,
        // which live and are borrowed for the whole call; their sizes were set at creation and above;
        // the count is that of the headers; no time-out is passed.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                DATAGRAMS_A_CALL as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        self.filled = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        Ok(self.filled)
    }

    /// What slot `index` holds since the last receive.
    pub fn datagrams(&mut self, index: usize) -> Option<Datagrams<'_>> {
        if index >= self.filled {
            return None;
        }
        let header = &self.headers[index];
        let length = (header.msg_len as usize).min(self.slot_bytes);
        let cut = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        let each = joined_length(header)
            .unwrap_or(length)
            .clamp(1, length.max(1));
        let from = read_address(&self.addresses[index])?;
        let stride = self.buffer.len() / DATAGRAMS_A_CALL;
        Some(Datagrams {
            from,
            bytes: &mut self.buffer[index * stride..][..length],
            each,
            cut,
        })
    }
}

/// The length of each datagram, when the kernel has joined some.
fn joined_length(header: &libc::mmsghdr) -> Option<usize> {
    if header.msg_hdr.msg_controllen == 0 {
        return None;
    }
    // SAFETY: the header was filled by recvmmsg and its control buffer belongs to the same receiver, so
    // the macros stay within it; the kernel writes an int for this type, copied out unaligned.
    unsafe {
        let message = libc::CMSG_FIRSTHDR(&raw const header.msg_hdr);
        if message.is_null()
            || (*message).cmsg_level != libc::SOL_UDP
            || (*message).cmsg_type != libc::UDP_GRO
        {
            return None;
        }
        let value = libc::CMSG_DATA(message)
            .cast::<libc::c_int>()
            .read_unaligned();
        usize::try_from(value).ok().filter(|&length| length > 0)
    }
}

struct Item {
    to: SocketAddr,
    bytes: usize,
}

/// What an empty sender keeps: more than a busy round needs.
const KEPT_BYTES: usize = 2 << 20;

/// Datagrams on their way out, in one arena. Those that follow each other to one address, of one length,
/// go as one buffer that the kernel or the card cuts (GSO).
pub struct Sender {
    arena: Vec<u8>,
    items: Vec<Item>,
    /// Items and bytes of the arena that are gone.
    sent: (usize, usize),
    shares: Shares,
    bound_bytes: usize,
    joins: bool,
    addresses: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
    headers: Vec<libc::mmsghdr>,
    slices: Vec<libc::iovec>,
    /// Items of each header in use.
    groups: Vec<usize>,
}

// SAFETY: the pointers in `headers` and `slices` are written anew before each call and not followed after
// it; everything else is plain data.
unsafe impl Send for Sender {}

impl Sender {
    /// Holds at most about `bound_bytes` of datagrams that wait.
    #[must_use]
    pub fn new(bound_bytes: usize) -> Self {
        Self {
            arena: Vec::new(),
            items: Vec::new(),
            sent: (0, 0),
            shares: Shares::default(),
            bound_bytes,
            joins: true,
            addresses: vec![empty_address(); DATAGRAMS_A_CALL],
            controls: vec![[0; 4]; DATAGRAMS_A_CALL],
            headers: vec![empty_header(); DATAGRAMS_A_CALL],
            slices: vec![NO_SLICE; DATAGRAMS_A_CALL],
            groups: Vec::with_capacity(DATAGRAMS_A_CALL),
        }
    }

    /// Whether another datagram may be added.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.arena.len() < self.bound_bytes
    }

    /// Whether everything went out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many bytes wait.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.arena.len() - self.sent.1
    }

    /// Adds a datagram; ask `has_room` first.
    #[inline]
    pub fn push(&mut self, to: SocketAddr, bytes: &[u8]) {
        let item = Item {
            to,
            bytes: bytes.len(),
        };
        self.items.push(item);
        self.arena.extend_from_slice(bytes);
        self.shares.add(to, bytes.len());
    }

    /// How many bytes wait for one address.
    pub fn waiting_for(&mut self, to: SocketAddr) -> usize {
        let waiting = self.items[self.sent.0..].iter();
        self.shares
            .of(to, waiting.map(|item| (item.to, item.bytes)))
    }

    /// Bytes that it holds, used or not.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.arena.capacity() + self.items.capacity() * size_of::<Item>()
    }

    /// Sends what waits. Gives how many went out and how many the kernel refused for good; what is left
    /// waits until the socket is writable.
    pub fn send(&mut self, socket: BorrowedFd<'_>) -> (usize, usize) {
        let (mut out, mut refused) = (0, 0);
        let mut joins = self.joins;
        while self.sent.0 < self.items.len() {
            let used = self.fill(joins);
            match self.send_once(socket, used) {
                Ok(count) => {
                    let items: usize = self.groups[..count].iter().sum();
                    out += items;
                    self.pass(items);
                    joins = self.joins;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return (out, refused),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The way to this address can't be used for joined ones: longer than its frames (EINVAL),
                // or its device has no checksums (EIO), as will be so for the next ones.
                Err(error) if self.groups[0] > 1 => {
                    self.joins &= error.raw_os_error() != Some(libc::EIO);
                    joins = false;
                }
                // About the first datagram, or an earlier one's answer (ICMP): the others may be fine.
                Err(_) => {
                    refused += 1;
                    self.pass(1);
                }
            }
        }
        self.items.clear();
        self.arena.clear();
        self.shares.clear();
        self.sent = (0, 0);
        // What a congestion has needed is not needed for ever.
        self.arena.shrink_to(KEPT_BYTES);
        self.items.shrink_to(KEPT_BYTES / size_of::<Item>());
        (out, refused)
    }

    fn pass(&mut self, items: usize) {
        let mut bytes = 0;
        for item in &self.items[self.sent.0..][..items] {
            bytes += item.bytes;
            self.shares.remove(item.to, item.bytes);
        }
        self.sent = (self.sent.0 + items, self.sent.1 + bytes);
    }

    /// Headers for the next datagrams, joined where they can be. Gives how many.
    fn fill(&mut self, joins: bool) -> usize {
        let (mut item, mut at) = self.sent;
        self.groups.clear();
        while self.groups.len() < DATAGRAMS_A_CALL && item < self.items.len() {
            let (count, bytes) = self.group(item, joins);
            let index = self.groups.len();
            self.slices[index] = libc::iovec {
                iov_base: self.arena[at..at + bytes].as_ptr().cast_mut().cast(),
                iov_len: bytes,
            };
            let first = &self.items[item];
            let header = &mut self.headers[index].msg_hdr;
            header.msg_namelen = write_address(first.to, &mut self.addresses[index]);
            header.msg_name = (&raw mut self.addresses[index]).cast();
            header.msg_iov = &raw mut self.slices[index];
            header.msg_iovlen = 1;
            if count > 1 {
                self.controls[index] = cut_into(first.bytes);
                header.msg_control = (&raw mut self.controls[index]).cast();
                header.msg_controllen = CUT_BYTES as _;
            } else {
                header.msg_control = std::ptr::null_mut();
                header.msg_controllen = 0;
            }
            self.groups.push(count);
            item += count;
            at += bytes;
        }
        self.groups.len()
    }

    /// How many datagrams from `first` on can go as one buffer, and their bytes.
    fn group(&self, first: usize, joins: bool) -> (usize, usize) {
        let Item { to, bytes: each } = self.items[first];
        let (mut count, mut bytes) = (1, each);
        if !joins || each == 0 {
            return (count, bytes);
        }
        for item in &self.items[first + 1..] {
            let fits = item.to == to
                && (1..=each).contains(&item.bytes)
                && bytes + item.bytes <= JOINED_BYTES
                && count < SEGMENTS_A_BUFFER;
            if !fits {
                break;
            }
            (count, bytes) = (count + 1, bytes + item.bytes);
            // Only the last one of a buffer may be shorter.
            if item.bytes < each {
                break;
            }
        }
        (count, bytes)
    }

    fn send_once(&mut self, socket: BorrowedFd<'_>, used: usize) -> io::Result<usize> {
        // SAFETY: the first `used` headers point at addresses, slices and controls of this object and at
        // bytes of its arena, all alive and unchanged for the call; the kernel only reads the bytes.
        let count = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                used as libc::c_uint,
                (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
            )
        };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }
}

/// Bytes of a control message with a u16, padding included.
// SAFETY: the macro only computes a size.
const CUT_BYTES: usize =
    unsafe { libc::CMSG_SPACE(mem::size_of::<u16>() as libc::c_uint) as usize };
const _: () = assert!(CUT_BYTES <= mem::size_of::<Control>());

/// The control message that has a buffer cut into datagrams of this length.
fn cut_into(each: usize) -> Control {
    let mut control: Control = [0; 4];
    let message = control.as_mut_ptr().cast::<libc::cmsghdr>();
    // SAFETY: the buffer is aligned for and larger than a cmsghdr with two bytes of data (asserted above).
    unsafe {
        (*message).cmsg_level = libc::SOL_UDP;
        (*message).cmsg_type = libc::UDP_SEGMENT;
        (*message).cmsg_len = libc::CMSG_LEN(mem::size_of::<u16>() as libc::c_uint) as _;
        libc::CMSG_DATA(message)
            .cast::<u16>()
            .write_unaligned(each as u16);
    }
    control
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

    fn batch_crosses(address: &str, joined: bool) {
        let (a, b) = (
            UdpSocket::bind(address).unwrap(),
            UdpSocket::bind(address).unwrap(),
        );
        assert!(!joined || join_received(b.as_fd()));
        let mut sender = Sender::new(1 << 20);
        let to = b.local_addr().unwrap();
        // Runs of one length, which go joined, each with a shorter one at its end; empty ones too.
        let lengths: Vec<usize> = (0..100)
            .map(|n| if n % 9 == 8 { n / 2 } else { n / 9 * 130 })
            .collect();
        for &length in &lengths {
            sender.push(to, &vec![length as u8; length]);
        }
        assert!(sender.has_room());
        assert_eq!(sender.waiting_bytes(), lengths.iter().sum::<usize>());
        assert_eq!(sender.send(a.as_fd()), (100, 0));
        assert!(sender.is_empty());
        let mut receiver = Receiver::new(MOST_DATAGRAM_BYTES);
        let mut got = Vec::new();
        while got.len() < lengths.len() {
            for index in 0..receiver.receive(b.as_fd()).unwrap() {
                let datagrams = receiver.datagrams(index).unwrap();
                assert_eq!(datagrams.from, a.local_addr().unwrap());
                assert!(
                    !datagrams.cut && (joined || datagrams.each == datagrams.bytes.len().max(1))
                );
                let whole = datagrams.bytes.chunks(datagrams.each).map(<[u8]>::to_vec);
                got.extend(if datagrams.bytes.is_empty() {
                    vec![Vec::new()]
                } else {
                    whole.collect()
                });
            }
        }
        let sent: Vec<Vec<u8>> = lengths
            .iter()
            .map(|&length| vec![length as u8; length])
            .collect();
        assert_eq!(got, sent);
        assert!(receiver.datagrams(DATAGRAMS_A_CALL).is_none());
        assert_eq!(
            receiver.receive(b.as_fd()).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    }

    #[test]
    fn batches_cross_on_both_families() {
        for joined in [false, true] {
            batch_crosses("127.0.0.1:0", joined);
            batch_crosses("[::1]:0", joined);
        }
    }

    #[test]
    fn a_datagram_that_can_not_go_does_not_hold_the_others() {
        let (a, b) = (
            UdpSocket::bind("127.0.0.1:0").unwrap(),
            UdpSocket::bind("127.0.0.1:0").unwrap(),
        );
        let mut sender = Sender::new(1 << 20);
        let to = b.local_addr().unwrap();
        sender.push(to, b"first");
        sender.push("[::1]:9".parse().unwrap(), b"of another family");
        sender.push("[::1]:9".parse().unwrap(), b"of another family");
        sender.push(to, &[0; 70_000]);
        sender.push(to, b"last");
        assert_eq!(sender.send(a.as_fd()), (2, 3));
        let mut receiver = Receiver::new(4);
        assert_eq!(receiver.receive(b.as_fd()).unwrap(), 2);
        assert!(receiver.datagrams(0).unwrap().cut);
        let last = receiver.datagrams(1).unwrap();
        assert_eq!((&last.bytes[..], last.cut), (&b"last"[..], false));
    }
}
