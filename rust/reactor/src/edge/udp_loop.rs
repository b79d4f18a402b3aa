//! The part of a loop that serves UDP, netcode and plain: the connections' ids, their rows, their end.

use std::io;
use std::net::SocketAddr;

use zmqgame_core::edge::netcode::server::{ClientKey, SESSION_BYTES};
use zmqgame_core::stream::packet::{HEADER_BYTES, Header, KIND_CLOSE, KIND_OPEN, PREFIX_BYTES};

use super::admission::Admission;
use super::balance::client_of;
use super::counters::Counters;
use super::event_loop::{EventLoop, FIRST_UDP_TOKEN};
use super::rates::Rates;
use super::reason::CloseReason;
use super::table::{AtBound, NotCharged, Place};
use super::udp::{Happened, SessionIds, UdpListener, UdpPort};
use super::udp_plain::{PlainListener, PlainPort};
use crate::listener::Peer;
use crate::reactor::{Interest, Ready, Token};

/// Whom a connection's packets go to, in the words of its port.
#[derive(Clone, Copy)]
pub(super) enum To {
    Client(ClientKey),
    Address(SocketAddr),
}

struct Session {
    id: u64,
    port: usize,
    to: To,
    rates: Option<Box<Rates>>,
    /// The consumer wants nothing of it for now.
    paused: bool,
    /// Counts it, until it is dropped.
    _admission: Admission,
}

/// Bytes that may wait for one connection in its port, whatever its bound is: a port holds four times as
/// many, so that nobody takes the others' place.
const SHARE_BYTES: usize = 2 << 20;
/// What a session is counted with for the bound on memory: netcode's own state, or an address and its place.
const NETCODE_BYTES: usize = SESSION_BYTES + PLAIN_BYTES;
const PLAIN_BYTES: usize = 512;

/// What becomes of a datagram that is to be queued.
enum Room {
    Yes,
    /// The port or the machine has no room: it is lost, as in the network.
    Lost,
    /// Its connection is at its bound.
    AtBound(AtBound),
}

enum Port {
    Netcode(Box<UdpPort>),
    Plain(Box<PlainPort>),
}

impl Port {
    fn readable(&mut self) -> &mut bool {
        match self {
            Self::Netcode(port) => &mut port.readable,
            Self::Plain(port) => &mut port.readable,
        }
    }

    fn waiting_bytes(&self) -> usize {
        match self {
            Self::Netcode(port) => port.waiting_bytes(),
            Self::Plain(port) => port.waiting_bytes(),
        }
    }

    fn waiting_for(&mut self, to: To) -> usize {
        match (self, to) {
            (Self::Netcode(port), To::Client(client)) => port.waiting_for(client),
            (Self::Plain(port), To::Address(address)) => port.waiting_for(address),
            _ => 0,
        }
    }

    fn has_memory(&self, bytes: usize) -> bool {
        match self {
            Self::Netcode(port) => port.has_memory(bytes),
            Self::Plain(port) => port.has_memory(bytes),
        }
    }
}

/// The UDP sockets of a loop and which connection is on which.
#[derive(Default)]
pub(super) struct UdpPorts {
    ports: Vec<Option<Port>>,
    /// The deadline that was set for each port.
    ticks_ms: Vec<Option<u64>>,
    /// By the slot of the id.
    sessions: Vec<Option<Session>>,
    /// Whether a port has something to read.
    readable: bool,
    /// Whether some connection's rates are limited, or some was paused.
    held: bool,
}

impl UdpPorts {
    pub(super) fn has_readable(&self) -> bool {
        self.readable
    }

    /// On which port it is, and whom that knows it as.
    fn get(&self, id: u64) -> Option<(usize, To)> {
        let session = self.sessions.get(Place::of(id).slot)?.as_ref()?;
        (session.id == id).then_some((session.port, session.to))
    }

    pub(super) fn has(&self, id: u64) -> bool {
        self.get(id).is_some()
    }

    fn session(&mut self, id: u64) -> Option<&mut Session> {
        let session = self.sessions.get_mut(Place::of(id).slot)?.as_mut()?;
        (session.id == id).then_some(session)
    }

    /// Takes its datagrams no more, or again.
    pub(super) fn pause(&mut self, id: u64, paused: bool) {
        if let Some(session) = self.session(id) {
            session.paused = paused;
            self.held = true;
        }
    }

    pub(super) fn is_paused(&mut self, id: u64) -> bool {
        self.held && self.session(id).is_some_and(|session| session.paused)
    }

    pub(super) fn ids(&self) -> Vec<u64> {
        self.sessions
            .iter()
            .flatten()
            .map(|session| session.id)
            .collect()
    }

    fn insert(&mut self, session: Session) {
        let slot = Place::of(session.id).slot;
        if self.sessions.len() <= slot {
            self.sessions.resize_with(slot + 1, || None);
        }
        self.sessions[slot] = Some(session);
    }

    fn remove(&mut self, id: u64) {
        if self.has(id) {
            self.sessions[Place::of(id).slot] = None;
        }
    }
}

impl EventLoop {
    // Both fail only when the machine is out of something; the socket is closed then.
    pub(super) fn listen_udp(&mut self, listener: UdpListener) -> io::Result<()> {
        let port = UdpPort::new(listener, self.now_ms())?;
        self.add_port(Port::Netcode(Box::new(port)))
    }

    pub(super) fn listen_udp_plain(&mut self, listener: PlainListener) -> io::Result<()> {
        let port = PlainPort::new(listener, self.shared.config.max_packet_bytes)?;
        self.add_port(Port::Plain(Box::new(port)))
    }

    /// Another loop could not take its socket of this address: the whole port is given up.
    pub(super) fn forget_udp_plain(&mut self, address: SocketAddr) {
        for index in 0..self.udp.ports.len() {
            let port = &self.udp.ports[index];
            if matches!(port, Some(Port::Plain(port)) if port.address() == Some(address)) {
                for id in self.udp.ids() {
                    if self.udp.get(id).is_some_and(|(port, _)| port == index) {
                        self.close_session(id, &CloseReason::Stopped);
                    }
                }
                self.udp.ports[index] = None;
            }
        }
    }

    fn add_port(&mut self, port: Port) -> io::Result<()> {
        let token = Token(FIRST_UDP_TOKEN + self.udp.ports.len() as u64);
        let descriptor = match &port {
            Port::Netcode(port) => port.as_fd(),
            Port::Plain(port) => port.as_fd(),
        };
        self.reactor.register(descriptor, token, Interest::EDGE)?;
        self.udp.ports.push(Some(port));
        self.udp.ticks_ms.push(None);
        Ok(())
    }

    pub(super) fn handle_udp(&mut self, index: usize, event: Ready) {
        if event.timer {
            if let Some(tick) = self.udp.ticks_ms.get_mut(index) {
                *tick = None;
            }
            self.with_port(index, |this, port| match port {
                Port::Netcode(port) => port.tick(this.now_ms(), |ids, happened| {
                    this.handle_session(index, ids, &happened)
                }),
                Port::Plain(port) => this.sweep_plain(port),
            });
        } else if let Some(Some(port)) = self.udp.ports.get_mut(index) {
            *port.readable() |= event.readable;
            self.udp.readable |= event.readable;
        }
    }

    /// Whether a datagram of so many bytes is taken: not of a connection that is paused or over its rates.
    #[inline]
    pub(super) fn takes_datagram(&mut self, id: u64, now_ms: u64, bytes: usize) -> bool {
        if !self.udp.held {
            return true;
        }
        let Some(session) = self.udp.session(id) else {
            return true;
        };
        let counter = if session.paused {
            &self.shared.counters.datagrams_paused
        } else {
            let rates = session.rates.as_mut();
            if rates.is_none_or(|rates| rates.take_datagram(now_ms, bytes as u64)) {
                return true;
            }
            &self.shared.counters.datagrams_over_rate
        };
        Counters::add(counter, 1);
        false
    }

    /// Takes the port out for as long as it and the loop are both needed.
    fn with_port(&mut self, index: usize, work: impl FnOnce(&mut Self, &mut Port)) {
        let taken = self.udp.ports.get_mut(index).and_then(Option::take);
        if let Some(mut port) = taken {
            work(self, &mut port);
            self.udp.ports[index] = Some(port);
        }
    }

    pub(super) fn read_udp(&mut self) {
        if !std::mem::take(&mut self.udp.readable) {
            return;
        }
        for index in 0..self.udp.ports.len() {
            self.with_port(index, |this, port| {
                if *port.readable() {
                    this.read_port(index, port);
                    this.udp.readable |= *port.readable();
                }
            });
        }
    }

    fn read_port(&mut self, index: usize, port: &mut Port) {
        match port {
            Port::Netcode(port) => {
                let (now_ms, shared) = (self.now_ms(), std::sync::Arc::clone(&self.shared));
                port.read(now_ms, &shared.counters, |ids, happened| {
                    self.handle_session(index, ids, &happened)
                });
            }
            Port::Plain(port) => self.read_plain(index, port),
        }
    }

    /// Sends what waits and sets the ports' deadlines.
    pub(super) fn write_udp(&mut self) {
        for (index, port) in self.udp.ports.iter_mut().enumerate() {
            let next_ms = match port {
                Some(Port::Netcode(port)) => {
                    port.flush(&self.shared.counters);
                    port.next_tick_ms()
                }
                Some(Port::Plain(port)) => {
                    port.flush(&self.shared.counters);
                    port.next_tick_ms(self.shared.config.idle_ms)
                }
                None => continue,
            };
            if next_ms != self.udp.ticks_ms[index] {
                self.udp.ticks_ms[index] = next_ms;
                let token = Token(FIRST_UDP_TOKEN + index as u64);
                match next_ms {
                    Some(at_ms) => self.reactor.set_timer(token, at_ms),
                    None => self.reactor.cancel_timer(token),
                }
            }
        }
    }

    /// Makes rows of what happened. False when the session has to end.
    fn handle_session(
        &mut self,
        index: usize,
        ids: &mut SessionIds,
        happened: &Happened<'_>,
    ) -> bool {
        match happened {
            Happened::Connected { client, open, peer } => {
                let Some(id) = self.open_session(index, To::Client(*client), *peer) else {
                    return false;
                };
                ids.insert(*client, id);
                self.push_open(id, open);
                true
            }
            Happened::Payload { client, bytes } => {
                let Some(id) = ids.get(*client) else {
                    return false;
                };
                let now_ms = self.reactor.now_ms();
                if !self.takes_datagram(id, now_ms, bytes.len()) {
                    Counters::add(&self.shared.counters.datagrams_refused, 1);
                    return true;
                }
                match Header::read(bytes, self.shared.config.max_packet_bytes) {
                    Ok(header) => {
                        self.batch.push(id, header, &bytes[HEADER_BYTES..]);
                        Counters::add(&self.shared.counters.packets_in, 1);
                        true
                    }
                    Err(error) => {
                        ids.remove(*client);
                        self.release_session(id, &CloseReason::Packet(error));
                        false
                    }
                }
            }
            Happened::Disconnected { client, why } => {
                if let Some(id) = ids.remove(*client) {
                    self.release_session(id, &CloseReason::Session(why));
                }
                true
            }
        }
    }

    /// Takes one more connection in, if the limits allow it and the edge goes on.
    pub(super) fn open_session(&mut self, port: usize, to: To, peer: SocketAddr) -> Option<u64> {
        if self.stop_at_ms.is_some() {
            return None;
        }
        let mut admission = Admission::new(&self.shared)?;
        if !admission.count_client(client_of(&Peer::Ip(peer))) {
            return None;
        }
        let bytes = match to {
            To::Client(_) => NETCODE_BYTES,
            To::Address(_) => PLAIN_BYTES,
        };
        if !admission.count_memory(bytes) {
            Counters::add(&self.shared.counters.refused_memory, 1);
            return None;
        }
        admission.count_loop(self.index);
        let id = self.new_id()?;
        Counters::add(&self.shared.counters.opened, 1);
        self.shared.peers().insert(id, peer.to_string());
        let rates = Rates::new(&self.shared.config, self.now_ms());
        self.udp.held |= rates.is_some();
        self.udp.insert(Session {
            id,
            port,
            to,
            rates,
            paused: false,
            _admission: admission,
        });
        Some(id)
    }

    pub(super) fn push_open(&mut self, id: u64, text: &str) {
        let header = Header {
            kind: KIND_OPEN,
            sequence: 0,
        };
        self.batch.push(id, header, text.as_bytes());
    }

    /// Tells the consumer and forgets the id; the port has ended the session or is about to.
    pub(super) fn release_session(&mut self, id: u64, reason: &CloseReason) {
        reason.count(&self.shared.counters);
        Counters::add(&self.shared.counters.closed, 1);
        let header = Header {
            kind: KIND_CLOSE,
            sequence: 0,
        };
        self.batch.push(id, header, reason.to_string().as_bytes());
        self.udp.remove(id);
        self.shared.loops[self.index].table.close(id);
        self.shared.peers().remove(&id);
        self.free.push(Place::of(id).slot);
    }

    pub(super) fn close_session(&mut self, id: u64, reason: &CloseReason) {
        let Some((port, to)) = self.udp.get(id) else {
            return;
        };
        self.release_session(id, reason);
        let now_ms = self.now_ms();
        match (self.udp.ports.get_mut(port), to) {
            (Some(Some(Port::Netcode(port))), To::Client(client)) => {
                port.disconnect(now_ms, client)
            }
            (Some(Some(Port::Plain(port))), To::Address(address)) => port.forget(address),
            _ => {}
        }
    }

    /// Whether so many bytes more may wait in the port. While what waits for all is less than what may wait
    /// for one, nothing is counted.
    #[inline]
    fn room_for(&mut self, port: usize, to: To, kind: u8, bytes: usize) -> Room {
        let Some(Some(port)) = self.udp.ports.get_mut(port) else {
            return Room::Lost;
        };
        let (bound, at_bound) = self.shared.bound_of(kind);
        let share = bound.min(SHARE_BYTES);
        if port.waiting_bytes() + bytes > share {
            let waiting = port.waiting_for(to) + bytes;
            if waiting > bound {
                return Room::AtBound(at_bound);
            }
            if waiting > share {
                return Room::Lost;
            }
        }
        if port.has_memory(bytes) {
            Room::Yes
        } else {
            Room::Lost
        }
    }

    /// Refuses a packet over its connection's bound, as the policy says.
    fn refuse_datagram(&mut self, id: u64, at_bound: AtBound) {
        if at_bound == AtBound::Drop {
            self.shared.count_refused(NotCharged::Dropped);
        } else {
            self.shared.count_refused(NotCharged::Full);
            let limit_bytes = self.shared.config.max_outbound_bytes;
            self.close_session(id, &CloseReason::Full { limit_bytes });
        }
    }

    /// A packet of the handler. A datagram waits in its port only; gives whether it was taken.
    pub(super) fn send_datagram(&mut self, id: u64, header: Header, parts: &[&[u8]]) -> bool {
        let Some((port, to)) = self.udp.get(id) else {
            self.shared.count_refused(NotCharged::Closed);
            return false;
        };
        let bytes = parts.iter().map(|part| part.len()).sum();
        let room = self.room_for(port, to, header.kind, bytes);
        if let Room::AtBound(at_bound) = room {
            self.refuse_datagram(id, at_bound);
            return false;
        }
        let (now_ms, counters) = (self.reactor.now_ms(), &self.shared.counters);
        if matches!(room, Room::Lost) {
            Counters::add(&counters.packets_out, 1);
            Counters::add(&counters.datagrams_refused, 1);
            return true;
        }
        Counters::add(&counters.packets_out, 1);
        match (self.udp.ports.get_mut(port), to, parts) {
            (Some(Some(Port::Plain(port))), To::Address(address), &[payload]) => {
                port.write(address, payload, counters);
            }
            (Some(Some(Port::Plain(port))), To::Address(address), _) => {
                port.write(address, &parts.concat(), counters);
            }
            (Some(Some(Port::Netcode(port))), To::Client(client), _) => {
                self.scratch.clear();
                header.write(&mut self.scratch);
                parts
                    .iter()
                    .for_each(|part| self.scratch.extend_from_slice(part));
                port.write(now_ms, client, &self.scratch, counters);
            }
            _ => {}
        }
        true
    }

    pub(super) fn write_session(&mut self, id: u64, packet: &[u8]) {
        self.shared.recharge(self.index, id, packet.len(), 0);
        let Some((port, to)) = self.udp.get(id) else {
            return;
        };
        let payload = packet.len() - PREFIX_BYTES - HEADER_BYTES;
        match self.room_for(port, to, packet[PREFIX_BYTES], payload) {
            Room::Yes => {}
            Room::AtBound(at_bound) => return self.refuse_datagram(id, at_bound),
            Room::Lost => {
                Counters::add(&self.shared.counters.datagrams_refused, 1);
                return;
            }
        }
        let (now_ms, counters) = (self.reactor.now_ms(), &self.shared.counters);
        match (self.udp.ports.get_mut(port), to) {
            (Some(Some(Port::Netcode(port))), To::Client(client)) => {
                port.write(now_ms, client, &packet[PREFIX_BYTES..], counters);
            }
            (Some(Some(Port::Plain(port))), To::Address(address)) => {
                port.write(address, &packet[PREFIX_BYTES + HEADER_BYTES..], counters);
            }
            _ => {}
        }
    }
}
