//! Plain UDP: a datagram is a packet (kind 0, as with raw streams), a remote address is a connection.
//!
//! Datagrams have no handshake and no end, so a connection begins with an address's first datagram, if the
//! limits allow it, and ends when it is silent for the idle time-out or the server closes it. Whoever
//! sends may have forged the address: who needs to know takes netcode. With several loops each has a
//! socket on the same port (SO_REUSEPORT), and the kernel keeps an address with one of them.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use zmqgame_core::edge::keyed::Keyed;
use zmqgame_core::stream::packet::Header;

use super::config::ROUND_BYTES;
use super::counters::Counters;
use super::event_loop::EventLoop;
use super::reason::CloseReason;
use super::shared::Shared;
use super::udp::{ALWAYS_BYTES, PortMemory, RECEIVES_A_ROUND, bind};
use super::udp_loop::To;
use crate::sys::{
    DATAGRAMS_A_CALL, Datagrams, MOST_DATAGRAM_BYTES, Receiver, Sender, join_received,
};

/// Datagrams that wait for the socket; beyond it they are dropped and counted, as the network would.
const MAX_WAITING_BYTES: usize = 8 << 20;
/// Sweeps for silent addresses in one idle time-out: how exactly it is kept, against looking at all.
const SWEEPS_AN_IDLE_TIME: u64 = 4;
/// The header of every packet.
const RAW: Header = Header {
    kind: 0,
    sequence: 0,
};

/// A bound socket: made by the handle, given to a loop.
#[derive(Debug)]
pub struct PlainListener(UdpSocket, PortMemory);

impl PlainListener {
    /// One socket a loop, all on one address.
    pub(super) fn bind(address: &str, shared: &Arc<Shared>) -> io::Result<(Vec<Self>, String)> {
        let loops = shared.loops.len();
        let memory = || PortMemory::new(shared);
        let first = bind(address, loops > 1)?;
        let bound = first.local_addr()?.to_string();
        let mut all = vec![Self(first, memory()?)];
        for _ in 1..loops {
            all.push(Self(bind(&bound, true)?, memory()?));
        }
        Ok((all, bound))
    }
}

struct Known {
    id: u64,
    heard_ms: u64,
}

/// The socket and the addresses that are known, on their loop.
pub(super) struct PlainPort {
    socket: UdpSocket,
    receiver: Receiver,
    sender: Sender,
    known: HashMap<SocketAddr, Known, Keyed>,
    next_sweep_ms: u64,
    memory: PortMemory,
    /// Whether the queue may grow.
    may_grow: bool,
    /// Whether the socket may hold more than was read.
    pub(super) readable: bool,
}

impl PlainPort {
    pub(super) fn new(listener: PlainListener, max_packet_bytes: usize) -> io::Result<Self> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| random[at + i]));
        let joins = join_received(listener.0.as_fd());
        let slot_bytes = if joins {
            MOST_DATAGRAM_BYTES
        } else {
            max_packet_bytes
        };
        Ok(Self {
            socket: listener.0,
            receiver: Receiver::new(slot_bytes),
            sender: Sender::new(MAX_WAITING_BYTES),
            known: HashMap::with_hasher(Keyed([word(0), word(8)])),
            next_sweep_ms: 0,
            memory: listener.1,
            may_grow: true,
            readable: false,
        })
    }

    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// When silent addresses are to be looked for.
    pub(super) fn next_tick_ms(&self, idle_ms: u64) -> Option<u64> {
        (idle_ms > 0 && !self.known.is_empty()).then_some(self.next_sweep_ms)
    }

    pub(super) fn forget(&mut self, address: SocketAddr) {
        self.known.remove(&address);
    }

    /// What waits to be sent.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.sender.waiting_bytes()
    }

    /// .. to one address.
    pub(super) fn waiting_for(&mut self, to: SocketAddr) -> usize {
        self.sender.waiting_for(to)
    }

    /// Whether a payload of so many bytes may wait, too.
    pub(super) fn has_memory(&self, bytes: usize) -> bool {
        let needed = self.sender.waiting_bytes() + bytes;
        self.may_grow || needed <= ALWAYS_BYTES.max(self.sender.memory_bytes() / 2)
    }

    /// Queues a packet as a datagram of its payload.
    pub(super) fn write(&mut self, to: SocketAddr, payload: &[u8], counters: &Counters) {
        if self.sender.has_room() {
            self.sender.push(to, payload);
        } else {
            Counters::add(&counters.datagrams_refused, 1);
        }
    }

    /// Sends what waits, until the socket is full.
    pub(super) fn flush(&mut self, counters: &Counters) {
        if self.sender.is_empty() {
            return;
        }
        self.may_grow = self.memory.set(self.sender.memory_bytes());
        let before = self.sender.waiting_bytes();
        let (sent, refused) = self.sender.send(self.socket.as_fd());
        self.may_grow = self.memory.set(self.sender.memory_bytes());
        Counters::add(
            &counters.bytes_out,
            (before - self.sender.waiting_bytes()) as u64,
        );
        Counters::add(&counters.datagrams_out, sent as u64);
        Counters::add(&counters.datagrams_refused, refused as u64);
    }
}

impl EventLoop {
    /// Reads for one round.
    pub(super) fn read_plain(&mut self, index: usize, port: &mut PlainPort) {
        let (mut datagrams_in, mut bytes_in, mut refused) = (0, 0, 0);
        for _ in 0..RECEIVES_A_ROUND {
            if self.batch.arena.len() > ROUND_BYTES {
                break;
            }
            let count = match port.receiver.receive(port.socket.as_fd()) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                // Interrupted, or an earlier answer's ICMP error, which this call has taken.
                Err(_) => continue,
            };
            for slot in 0..count {
                let Some(datagrams) = port.receiver.datagrams(slot) else {
                    continue;
                };
                let Datagrams {
                    from,
                    bytes,
                    each,
                    cut,
                } = datagrams;
                let number = bytes.len().div_ceil(each).max(1) as u64;
                datagrams_in += number;
                bytes_in += bytes.len() as u64;
                let id = if cut || each > self.shared.config.max_packet_bytes {
                    None
                } else {
                    self.plain_connection(index, &mut port.known, from)
                };
                let Some(id) = id else {
                    refused += number;
                    continue;
                };
                refused += self.push_datagrams(id, bytes, each);
            }
            if count < DATAGRAMS_A_CALL {
                // Emptied: what comes from now on is told as a new edge.
                port.readable = false;
                break;
            }
        }
        let counters = &self.shared.counters;
        Counters::add(&counters.datagrams_in, datagrams_in);
        Counters::add(&counters.bytes_in, bytes_in);
        Counters::add(&counters.datagrams_refused, refused);
        Counters::add(&counters.packets_in, datagrams_in - refused);
    }

    /// Makes rows of what one address sent. Gives how many are not taken.
    fn push_datagrams(&mut self, id: u64, bytes: &[u8], each: usize) -> u64 {
        let now_ms = self.now_ms();
        if bytes.is_empty() {
            let taken = self.takes_datagram(id, now_ms, 0);
            if taken {
                self.batch.push(id, RAW, bytes);
            }
            return u64::from(!taken);
        }
        let (mut offset, mut refused) = (self.batch.arena.len() as u32, 0);
        self.batch.arena.extend_from_slice(bytes);
        for datagram in bytes.chunks(each) {
            let length = datagram.len() as u32;
            if self.takes_datagram(id, now_ms, datagram.len()) {
                self.batch.push_row(id, RAW, offset, length);
            } else {
                refused += 1;
            }
            offset += length;
        }
        refused
    }

    /// The connection of an address: known, or opened if the limits allow it.
    fn plain_connection(
        &mut self,
        index: usize,
        known: &mut HashMap<SocketAddr, Known, Keyed>,
        from: SocketAddr,
    ) -> Option<u64> {
        let heard_ms = self.now_ms();
        if let Some(known) = known.get_mut(&from) {
            known.heard_ms = heard_ms;
            return Some(known.id);
        }
        let id = self.open_session(index, To::Address(from), from)?;
        let open = format!("{{\"transport\":\"udp-plain\",\"peer\":\"{from}\"}}");
        self.push_open(id, &open);
        known.insert(from, Known { id, heard_ms });
        Some(id)
    }

    /// Closes the connections of addresses that are silent for too long.
    pub(super) fn sweep_plain(&mut self, port: &mut PlainPort) {
        let (now_ms, idle_ms) = (self.now_ms(), self.shared.config.idle_ms);
        port.next_sweep_ms = now_ms + (idle_ms / SWEEPS_AN_IDLE_TIME).max(1);
        port.known.retain(|_, known| {
            if self.udp.is_paused(known.id) {
                // It is not the client that is silent.
                known.heard_ms = now_ms;
            }
            let silent = now_ms.saturating_sub(known.heard_ms) >= idle_ms;
            if silent {
                self.release_session(known.id, &CloseReason::Idle { idle_ms });
            }
            !silent
        });
    }
}
