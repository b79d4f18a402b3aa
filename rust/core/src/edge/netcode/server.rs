//! The server's side of all sessions on one socket.
//!
//! | a datagram from | that is | does |
//! |---|---|---|
//! | an unknown address | a request with a good, unused token | the address becomes *pending*; a challenge goes out |
//! | a pending address | a response with the right challenge | the client is *connected*; a keep-alive goes out |
//! | a connected address | keep-alive, payload, disconnect | life, bytes for the application, the end |
//! | anyone | anything else | is counted by its [`Refusal`] and forgotten |
//!
//! Invariants: an answer is smaller than what it answers; at most one decryption fails for one
//! datagram; nothing is kept for an address that has not shown a good token; the server's packets
//! outside a session (challenge, denied) are numbered above 2^63, those of a session far below, so
//! no number is used twice with the session's key.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use super::Key;
use super::limits::{
    DISCONNECT_PACKETS, MAX_CLIENTS, MAX_PAYLOAD_BYTES, MAX_TIMEOUT_MS, MIN_PENDING,
    PENDING_PER_CLIENT, SEND_INTERVAL_MS, keep_alive_ms,
};
use super::outbound::Outbound;
use super::packet::{Header, Kind, PacketKey, Request, challenge_body, split_challenge_body};
use super::replay::ReplayWindow;
pub use super::report::{Counters, Ended, Event, Received, Refusal, SendError};
use super::slots::{Place, Slots};
use super::token::{Challenge, PrivateToken, TokenTag, UserData, open_private};
use super::used::UsedTokens;
use crate::edge::keyed::Keyed;

/// A connected client, as the driver names it. Never used again for another one.
pub type ClientKey = u64;

/// What a server is told once.
#[derive(Clone)]
pub struct ServerConfig {
    /// Names the application and its version.
    pub protocol_id: u64,
    /// The key that the manager seals tokens with.
    pub private_key: Key,
    /// The addresses by which tokens name this server.
    pub public_addresses: Vec<SocketAddr>,
    /// Sessions at the same time; at most [`MAX_CLIENTS`].
    pub max_clients: u32,
}

impl ServerConfig {
    /// For one public address.
    pub fn new(
        protocol_id: u64,
        private_key: Key,
        public_address: SocketAddr,
        max_clients: u32,
    ) -> Self {
        let public_addresses = vec![public_address];
        Self {
            protocol_id,
            private_key,
            public_addresses,
            max_clients,
        }
    }
}

/// Random bytes for one server; new ones at each start.
#[derive(Clone)]
pub struct ServerEntropy {
    /// Seals challenges.
    pub challenge_key: Key,
    /// Where packets' numbers start: those of sessions somewhere below 2^39 (five bytes), those
    /// outside sessions in the lower half above 2^63. A server that is restarted knows no used
    /// tokens; so it does not number the packets of one that comes again the same way.
    pub sequence: u64,
    /// Secret of the hash tables.
    pub hash_keys: [u64; 2],
}

impl ServerEntropy {
    /// Bytes that a server needs.
    pub const BYTES: usize = 32 + 8 + 16;

    /// Cuts random bytes into their uses.
    pub fn from_bytes(random: &[u8; Self::BYTES]) -> Self {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| random[at + i]));
        Self {
            challenge_key: std::array::from_fn(|i| random[i]),
            sequence: word(32),
            hash_keys: [word(40), word(48)],
        }
    }
}

struct Pending {
    address: SocketAddr,
    client_id: u64,
    token: TokenTag,
    user_data: UserData,
    up: PacketKey,
    down: PacketKey,
    timeout_ms: u64,
    since_ms: u64,
}

struct Client {
    address: SocketAddr,
    client_id: u64,
    up: PacketKey,
    down: PacketKey,
    timeout_ms: u64,
    received_ms: u64,
    sent_ms: u64,
    next_sequence: u64,
    window: ReplayWindow,
    /// It has sent a keep-alive or payload, so it knows that it is connected.
    confirmed: bool,
}

/// Bytes that one session takes: its state, and its places in the tables.
pub const SESSION_BYTES: usize = size_of::<Client>() + 128;

impl Client {
    /// After so long without a word to it a keep-alive is due.
    fn silence_ms(&self) -> u64 {
        if self.confirmed {
            keep_alive_ms(self.timeout_ms)
        } else {
            SEND_INTERVAL_MS
        }
    }
}

#[derive(Clone, Copy)]
enum Peer {
    Pending(Place),
    Client(Place),
}

/// All sessions on one socket.
pub struct Server {
    config: ServerConfig,
    challenge_key: PacketKey,
    next_challenge: u64,
    next_global: u64,
    first_sequence: u64,
    /// Unix time minus the driver's time.
    unix_offset_ms: i128,
    peers: HashMap<SocketAddr, Peer, Keyed>,
    ids: HashMap<u64, Place, Keyed>,
    clients: Slots<Client>,
    pending: Slots<Pending>,
    used: UsedTokens,
    out: Outbound,
    events: VecDeque<Event>,
    counters: Counters,
    next_sweep_ms: u64,
}

impl Server {
    /// A server without sessions. `unix_ms` is the wall clock at `now_ms`.
    pub fn new(config: ServerConfig, entropy: &ServerEntropy, now_ms: u64, unix_ms: u64) -> Self {
        let hash = Keyed(entropy.hash_keys);
        let max_clients = config.max_clients.min(MAX_CLIENTS);
        let max_pending = (max_clients * PENDING_PER_CLIENT).max(MIN_PENDING);
        let mut server = Self {
            config: ServerConfig {
                max_clients,
                ..config
            },
            challenge_key: PacketKey::new(&entropy.challenge_key),
            next_challenge: 0,
            next_global: 1 << 63 | entropy.sequence >> 2,
            first_sequence: entropy.sequence % (1 << 39),
            unix_offset_ms: 0,
            peers: HashMap::with_hasher(hash.clone()),
            ids: HashMap::with_hasher(hash.clone()),
            clients: Slots::new(max_clients),
            pending: Slots::new(max_pending),
            used: UsedTokens::new(hash),
            out: Outbound::default(),
            events: VecDeque::new(),
            counters: Counters::default(),
            next_sweep_ms: now_ms + SEND_INTERVAL_MS,
        };
        server.handle_wall_clock(now_ms, unix_ms);
        server
    }

    /// The wall clock was read again; tokens' expiry follows it.
    pub fn handle_wall_clock(&mut self, now_ms: u64, unix_ms: u64) {
        self.unix_offset_ms = i128::from(unix_ms) - i128::from(now_ms);
    }

    /// One datagram, decrypted in its own buffer.
    pub fn handle_datagram<'a>(
        &mut self,
        now_ms: u64,
        from: SocketAddr,
        datagram: &'a mut [u8],
    ) -> Received<'a> {
        let handled = if Request::is(datagram) {
            self.handle_request(now_ms, from, datagram)
                .map(|()| Received::Handled)
        } else {
            self.handle_sealed(now_ms, from, datagram)
        };
        handled.unwrap_or_else(|refusal| {
            self.counters.refused[refusal as usize] += 1;
            self.counters.failed_decryptions += u64::from(refusal == Refusal::Seal);
            Received::Refused(refusal)
        })
    }

    /// Steps of the standard's "processing connection requests"; the cheap checks come first.
    fn handle_request(
        &mut self,
        now_ms: u64,
        from: SocketAddr,
        datagram: &mut [u8],
    ) -> Result<(), Refusal> {
        let request = Request::read(datagram).ok_or(Refusal::Malformed)?;
        if request.protocol_id != self.config.protocol_id {
            return Err(Refusal::Protocol);
        }
        if request.expire_s <= self.unix_s(now_ms) {
            return Err(Refusal::Expired);
        }
        if let Some(Peer::Client(_)) = self.peers.get(&from) {
            return Err(Refusal::AlreadyConnected);
        }
        let tag: TokenTag = *request
            .private
            .last_chunk()
            .expect("the array is longer than a tag");
        if !self.used.allows(&tag, from) {
            return Err(Refusal::TokenUsed);
        }
        let Request {
            protocol_id,
            expire_s,
            nonce,
            private,
        } = request;
        let token = open_private(
            private,
            protocol_id,
            expire_s,
            &nonce,
            &self.config.private_key,
        )
        .map_err(|_| Refusal::Seal)?;
        if !self
            .config
            .public_addresses
            .iter()
            .any(|address| token.servers.contains(address))
        {
            return Err(Refusal::OtherServer);
        }
        if self.ids.contains_key(&token.client_id) {
            return Err(Refusal::AlreadyConnected);
        }
        if !self.used.remember(tag, from, expire_s) {
            return Err(Refusal::Busy);
        }
        self.answer_request(now_ms, from, token, tag)
    }

    fn answer_request(
        &mut self,
        now_ms: u64,
        from: SocketAddr,
        token: PrivateToken,
        tag: TokenTag,
    ) -> Result<(), Refusal> {
        let down = PacketKey::new(&token.server_to_client);
        if self.clients.is_full() {
            self.send_global(from, &down, Kind::Denied, &[]);
            return Err(Refusal::ServerFull);
        }
        let challenge = Challenge {
            client_id: token.client_id,
            user_data: token.user_data,
            token: tag,
        };
        let sequence = self.next_challenge;
        self.next_challenge += 1;
        let body = challenge_body(sequence, &challenge.seal(sequence, &self.challenge_key));
        let pending = Pending {
            address: from,
            client_id: token.client_id,
            token: tag,
            user_data: token.user_data,
            up: PacketKey::new(&token.client_to_server),
            down,
            timeout_ms: timeout_ms(token.timeout_s),
            since_ms: now_ms,
        };
        let place = self.insert_pending(pending)?;
        let pending = self.pending.get(place).expect("just put in");
        let sequence = self.next_global;
        self.next_global += 1;
        let protocol_id = self.config.protocol_id;
        let sent = self.out.push(from, |out| {
            pending
                .down
                .seal(protocol_id, Kind::Challenge, sequence, &body, out)
        });
        self.counters.dropped += u64::from(!sent);
        Ok(())
    }

    /// The same address may ask again, with the same token or a newer one: the newest counts. Its
    /// time starts with the first request for the same token.
    fn insert_pending(&mut self, mut pending: Pending) -> Result<Place, Refusal> {
        let address = pending.address;
        if let Some(Peer::Pending(place)) = self.peers.get(&address).copied() {
            let old = self
                .pending
                .get_mut(place)
                .expect("peers and pending agree");
            if old.token == pending.token {
                pending.since_ms = old.since_ms;
            }
            *old = pending;
            return Ok(place);
        }
        let place = self.pending.insert(pending).map_err(|_| Refusal::Busy)?;
        self.peers.insert(address, Peer::Pending(place));
        Ok(place)
    }

    fn handle_sealed<'a>(
        &mut self,
        now_ms: u64,
        from: SocketAddr,
        datagram: &'a mut [u8],
    ) -> Result<Received<'a>, Refusal> {
        let header = Header::read(datagram)?;
        match (self.peers.get(&from).copied(), header.kind) {
            (Some(Peer::Client(place)), Kind::KeepAlive | Kind::Payload | Kind::Disconnect) => {
                self.handle_client_packet(now_ms, place, &header, datagram)
            }
            (Some(Peer::Pending(place)), Kind::Response) => {
                self.handle_response(now_ms, place, &header, datagram)?;
                Ok(Received::Handled)
            }
            _ => Err(Refusal::Unexpected),
        }
    }

    fn handle_client_packet<'a>(
        &mut self,
        now_ms: u64,
        place: Place,
        header: &Header,
        datagram: &'a mut [u8],
    ) -> Result<Received<'a>, Refusal> {
        let client = self
            .clients
            .get_mut(place)
            .expect("peers and clients agree");
        if client.window.is_replay(header.sequence) {
            return Err(Refusal::Replay);
        }
        let body = client.up.open(self.config.protocol_id, header, datagram)?;
        client.window.record(header.sequence);
        if header.kind == Kind::Disconnect {
            self.end(place, Ended::ByClient);
            return Ok(Received::Handled);
        }
        client.received_ms = now_ms;
        client.confirmed = true;
        if header.kind == Kind::KeepAlive {
            return Ok(Received::Handled);
        }
        self.counters.payloads += 1;
        Ok(Received::Payload {
            client: place.to_u64(),
            sequence: header.sequence,
            bytes: body,
        })
    }

    /// Steps of the standard's "processing connection response packets".
    fn handle_response(
        &mut self,
        now_ms: u64,
        place: Place,
        header: &Header,
        datagram: &mut [u8],
    ) -> Result<(), Refusal> {
        let pending = self.pending.get(place).expect("peers and pending agree");
        let body = pending.up.open(self.config.protocol_id, header, datagram)?;
        let (sequence, sealed) = split_challenge_body(body).ok_or(Refusal::Malformed)?;
        let challenge =
            Challenge::open(sealed, sequence, &self.challenge_key).map_err(|_| Refusal::Seal)?;
        if challenge.token != pending.token {
            return Err(Refusal::Seal);
        }
        if self.ids.contains_key(&pending.client_id) {
            return Err(Refusal::AlreadyConnected);
        }
        if self.clients.is_full() {
            let pending = self.remove_pending(place);
            self.send_global(pending.address, &pending.down, Kind::Denied, &[]);
            return Err(Refusal::ServerFull);
        }
        // Undrained events must not grow without bound: those of ended sessions come on top.
        if self.events.len() >= self.config.max_clients as usize {
            return Err(Refusal::Busy);
        }
        self.connect(now_ms, place);
        Ok(())
    }

    fn connect(&mut self, now_ms: u64, place: Place) {
        let pending = self.remove_pending(place);
        self.used.set_connected(&pending.token);
        let (address, client_id) = (pending.address, pending.client_id);
        let client = Client {
            address,
            client_id,
            up: pending.up,
            down: pending.down,
            timeout_ms: pending.timeout_ms,
            received_ms: now_ms,
            sent_ms: now_ms,
            next_sequence: self.first_sequence,
            window: ReplayWindow::default(),
            confirmed: false,
        };
        let Ok(place) = self.clients.insert(client) else {
            unreachable!("the caller has checked that a slot is free");
        };
        self.peers.insert(address, Peer::Client(place));
        self.ids.insert(client_id, place);
        self.counters.connected += 1;
        self.events.push_back(Event::Connected {
            client: place.to_u64(),
            client_id,
            address,
            user_data: Box::new(pending.user_data),
        });
        self.send_keep_alive(now_ms, place);
    }

    fn remove_pending(&mut self, place: Place) -> Pending {
        let pending = self.pending.remove(place).expect("the place was looked up");
        self.peers.remove(&pending.address);
        pending
    }

    fn end(&mut self, place: Place, why: Ended) {
        let Some(client) = self.clients.remove(place) else {
            return;
        };
        self.peers.remove(&client.address);
        self.ids.remove(&client.client_id);
        let (client, client_id) = (place.to_u64(), client.client_id);
        self.events.push_back(Event::Disconnected {
            client,
            client_id,
            why,
        });
    }

    /// Sends one payload to a client, at once and unreliably.
    pub fn send(
        &mut self,
        now_ms: u64,
        client: ClientKey,
        payload: &[u8],
    ) -> Result<(), SendError> {
        let place = Place::from_u64(client);
        let confirmed = self
            .clients
            .get(place)
            .ok_or(SendError::UnknownClient)?
            .confirmed;
        if !(1..=MAX_PAYLOAD_BYTES).contains(&payload.len()) {
            return Err(SendError::Length {
                limit: MAX_PAYLOAD_BYTES,
                value: payload.len(),
            });
        }
        if !confirmed {
            self.send_keep_alive(now_ms, place);
        }
        let sent = self.send_packet(now_ms, place, Kind::Payload, payload);
        if sent { Ok(()) } else { Err(SendError::Full) }
    }

    /// Ends a session and tells the client. `false` if there is none.
    pub fn disconnect(&mut self, now_ms: u64, client: ClientKey) -> bool {
        let place = Place::from_u64(client);
        let known = self.clients.get(place).is_some();
        if known {
            self.say_goodbye(now_ms, place);
            self.end(place, Ended::ByServer);
        }
        known
    }

    /// Ends all sessions, as before a stop.
    pub fn disconnect_all(&mut self, now_ms: u64) {
        for place in self.clients.places(|_| true) {
            self.disconnect(now_ms, place.to_u64());
        }
    }

    fn say_goodbye(&mut self, now_ms: u64, place: Place) {
        for _ in 0..DISCONNECT_PACKETS {
            self.send_packet(now_ms, place, Kind::Disconnect, &[]);
        }
    }

    fn send_keep_alive(&mut self, now_ms: u64, place: Place) {
        let mut body = [0; 8];
        body[..4].copy_from_slice(&place.index.to_le_bytes());
        body[4..].copy_from_slice(&self.config.max_clients.to_le_bytes());
        self.send_packet(now_ms, place, Kind::KeepAlive, &body);
    }

    fn send_packet(&mut self, now_ms: u64, place: Place, kind: Kind, body: &[u8]) -> bool {
        let client = self
            .clients
            .get_mut(place)
            .expect("the caller has the place from us");
        let (sequence, protocol_id) = (client.next_sequence, self.config.protocol_id);
        let (to, down) = (client.address, &client.down);
        let sent = self
            .out
            .push(to, |out| down.seal(protocol_id, kind, sequence, body, out));
        if sent {
            client.next_sequence += 1;
            client.sent_ms = now_ms;
        } else {
            self.counters.dropped += 1;
        }
        sent
    }

    fn send_global(&mut self, to: SocketAddr, key: &PacketKey, kind: Kind, body: &[u8]) {
        let (sequence, protocol_id) = (self.next_global, self.config.protocol_id);
        self.next_global += 1;
        let sent = self
            .out
            .push(to, |out| key.seal(protocol_id, kind, sequence, body, out));
        self.counters.dropped += u64::from(!sent);
    }

    /// Time has passed: time-outs, keep-alives, tokens to forget.
    pub fn handle_timeout(&mut self, now_ms: u64) {
        if now_ms < self.next_sweep_ms {
            return;
        }
        self.next_sweep_ms = now_ms + SEND_INTERVAL_MS;
        self.used.forget_expired(self.unix_s(now_ms));
        for place in self
            .pending
            .places(|p| now_ms.saturating_sub(p.since_ms) >= p.timeout_ms)
        {
            self.remove_pending(place);
        }
        for place in self
            .clients
            .places(|c| now_ms.saturating_sub(c.received_ms) >= c.timeout_ms)
        {
            self.say_goodbye(now_ms, place);
            self.end(place, Ended::TimedOut);
        }
        for place in self
            .clients
            .places(|c| now_ms.saturating_sub(c.sent_ms) >= c.silence_ms())
        {
            self.send_keep_alive(now_ms, place);
        }
    }

    /// When [`Server::handle_timeout`] has something to do; `None` while nobody is here.
    pub fn poll_timeout(&self) -> Option<u64> {
        let busy = self.clients.len() + self.pending.len() + self.used.len() > 0;
        busy.then_some(self.next_sweep_ms)
    }

    /// The next datagram to send, until there is none.
    pub fn poll_datagram(&mut self) -> Option<(SocketAddr, &[u8])> {
        self.out.pop()
    }

    /// Bytes of the datagrams that wait to be taken.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.out.waiting_bytes()
    }

    /// Those for one client; 0 if there is none.
    pub fn waiting_for(&mut self, client: ClientKey) -> usize {
        let client = self.clients.get(Place::from_u64(client));
        let address = client.map(|client| client.address);
        address.map_or(0, |to| self.out.waiting_for(to))
    }

    /// Bytes that the queue of datagrams holds, used or not.
    #[must_use]
    pub fn queue_memory_bytes(&self) -> usize {
        self.out.memory_bytes()
    }

    /// The next event, until there is none.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether there is such a session.
    pub fn is_connected(&self, client: ClientKey) -> bool {
        self.clients.get(Place::from_u64(client)).is_some()
    }

    /// Sessions now.
    pub fn connected(&self) -> usize {
        self.clients.len()
    }

    /// Addresses that have shown a token and not answered their challenge yet.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn unix_s(&self, now_ms: u64) -> u64 {
        let unix_ms = (i128::from(now_ms) + self.unix_offset_ms).max(0);
        u64::try_from(unix_ms / 1000).unwrap_or(u64::MAX)
    }
}

fn timeout_ms(timeout_s: i32) -> u64 {
    match u64::try_from(timeout_s) {
        Ok(seconds) if seconds > 0 => (seconds * 1000).min(MAX_TIMEOUT_MS),
        _ => MAX_TIMEOUT_MS,
    }
}

#[cfg(test)]
impl Server {
    /// Panics unless the tables agree with each other.
    pub(super) fn assert_consistent(&self) {
        assert_eq!(self.peers.len(), self.clients.len() + self.pending.len());
        assert_eq!(self.ids.len(), self.clients.len());
        for place in self.clients.places(|_| true) {
            let client = self.clients.get(place).unwrap();
            assert!(matches!(self.peers[&client.address], Peer::Client(at) if at == place));
            assert_eq!(self.ids[&client.client_id], place);
        }
        for place in self.pending.places(|_| true) {
            let pending = self.pending.get(place).unwrap();
            assert!(matches!(self.peers[&pending.address], Peer::Pending(at) if at == place));
        }
    }
}
