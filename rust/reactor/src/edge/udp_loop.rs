//! The part of a loop that serves UDP sessions: their ids, their rows, their end.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use zmqgame_core::edge::netcode::server::ClientKey;
use zmqgame_core::stream::packet::{HEADER_BYTES, Header, KIND_CLOSE, KIND_OPEN, PREFIX_BYTES};

use super::counters::Counters;
use super::event_loop::{EventLoop, FIRST_UDP_TOKEN};
use super::reason::CloseReason;
use super::table::Place;
use super::udp::{Happened, UdpListener, UdpPort};
use crate::reactor::{Interest, Ready, Token};

/// The UDP sockets of a loop and which session is on which.
#[derive(Default)]
pub(super) struct UdpPorts {
    ports: Vec<Option<Box<UdpPort>>>,
    /// The deadline that was set for each port.
    ticks_ms: Vec<Option<u64>>,
    sessions: HashMap<u64, (usize, ClientKey)>,
}

impl UdpPorts {
    pub(super) fn has_readable(&self) -> bool {
        self.ports.iter().flatten().any(|port| port.readable)
    }

    pub(super) fn has(&self, id: u64) -> bool {
        self.sessions.contains_key(&id)
    }

    pub(super) fn ids(&self) -> Vec<u64> {
        self.sessions.keys().copied().collect()
    }
}

impl EventLoop {
    pub(super) fn listen_udp(&mut self, listener: UdpListener) {
        let index = self.udp.ports.len();
        let token = Token(FIRST_UDP_TOKEN + index as u64);
        // Both fail only when the machine is out of something; the socket is closed then.
        let Ok(port) = UdpPort::new(listener, self.now_ms()) else {
            return;
        };
        if self
            .reactor
            .register(port.as_fd(), token, Interest::EDGE)
            .is_ok()
        {
            self.udp.ports.push(Some(Box::new(port)));
            self.udp.ticks_ms.push(None);
        }
    }

    pub(super) fn handle_udp(&mut self, index: usize, event: Ready) {
        if event.timer {
            if let Some(tick) = self.udp.ticks_ms.get_mut(index) {
                *tick = None;
            }
            self.with_port(index, |this, port| {
                port.tick(this.now_ms(), |ids, happened| {
                    this.handle_session(index, ids, &happened)
                });
            });
        } else if let Some(Some(port)) = self.udp.ports.get_mut(index) {
            port.readable |= event.readable;
        }
    }

    /// Takes the port out for as long as it and the loop are both needed.
    fn with_port(&mut self, index: usize, work: impl FnOnce(&mut Self, &mut UdpPort)) {
        let taken = self.udp.ports.get_mut(index).and_then(Option::take);
        if let Some(mut port) = taken {
            work(self, &mut port);
            self.udp.ports[index] = Some(port);
        }
    }

    pub(super) fn read_udp(&mut self) {
        for index in 0..self.udp.ports.len() {
            if self.udp.ports[index]
                .as_ref()
                .is_some_and(|port| port.readable)
            {
                self.with_port(index, |this, port| {
                    let (now_ms, shared) = (this.now_ms(), std::sync::Arc::clone(&this.shared));
                    port.read(now_ms, &shared.counters, |ids, happened| {
                        this.handle_session(index, ids, &happened)
                    });
                });
            }
        }
    }

    /// Sends what waits and sets the ports' deadlines.
    pub(super) fn write_udp(&mut self) {
        for (index, port) in self.udp.ports.iter_mut().enumerate() {
            let Some(port) = port else { continue };
            port.flush(&self.shared.counters);
            let next_ms = port.next_tick_ms();
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
        ids: &mut HashMap<ClientKey, u64>,
        happened: &Happened<'_>,
    ) -> bool {
        match happened {
            Happened::Connected { client, open, peer } => {
                let Some(id) = self.open_session(index, *client, peer) else {
                    return false;
                };
                ids.insert(*client, id);
                let header = Header {
                    kind: KIND_OPEN,
                    sequence: 0,
                };
                self.batch.push(id, header, open.as_bytes());
                true
            }
            Happened::Payload { client, bytes } => {
                let Some(&id) = ids.get(client) else {
                    return false;
                };
                match Header::read(bytes, self.shared.config.max_packet_bytes) {
                    Ok(header) => {
                        self.batch.push(id, header, &bytes[HEADER_BYTES..]);
                        Counters::add(&self.shared.counters.packets_in, 1);
                        true
                    }
                    Err(error) => {
                        ids.remove(client);
                        self.release_session(id, &CloseReason::Packet(error));
                        false
                    }
                }
            }
            Happened::Disconnected { client, why } => {
                if let Some(id) = ids.remove(client) {
                    self.release_session(id, &CloseReason::Session(why));
                }
                true
            }
        }
    }

    fn open_session(&mut self, index: usize, client: ClientKey, peer: &str) -> Option<u64> {
        if !self.admit() {
            return None;
        }
        let Some(id) = self.new_id() else {
            self.shared.live.fetch_sub(1, Ordering::AcqRel);
            return None;
        };
        Counters::add(&self.shared.counters.opened, 1);
        self.shared.peers().insert(id, peer.to_owned());
        self.udp.sessions.insert(id, (index, client));
        Some(id)
    }

    /// Tells the consumer and forgets the id; the port has ended the session or is about to.
    fn release_session(&mut self, id: u64, reason: &CloseReason) {
        reason.count(&self.shared.counters);
        Counters::add(&self.shared.counters.closed, 1);
        let header = Header {
            kind: KIND_CLOSE,
            sequence: 0,
        };
        self.batch.push(id, header, reason.to_string().as_bytes());
        self.udp.sessions.remove(&id);
        self.shared.loops[self.index].table.close(id);
        self.shared.live.fetch_sub(1, Ordering::AcqRel);
        self.shared.peers().remove(&id);
        self.free.push(Place::of(id).slot);
    }

    pub(super) fn close_session(&mut self, id: u64, reason: &CloseReason) {
        let Some(&(index, client)) = self.udp.sessions.get(&id) else {
            return;
        };
        self.release_session(id, reason);
        let now_ms = self.now_ms();
        if let Some(Some(port)) = self.udp.ports.get_mut(index) {
            port.disconnect(now_ms, client);
        }
    }

    pub(super) fn write_session(&mut self, id: u64, packet: &[u8]) {
        self.shared.recharge(self.index, id, packet.len(), 0);
        let Some(&(index, client)) = self.udp.sessions.get(&id) else {
            return;
        };
        let now_ms = self.now_ms();
        if let Some(Some(port)) = self.udp.ports.get_mut(index) {
            port.write(
                now_ms,
                client,
                &packet[PREFIX_BYTES..],
                &self.shared.counters,
            );
        }
    }
}
