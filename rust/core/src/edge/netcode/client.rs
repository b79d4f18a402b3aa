//! The client's side of a session.
//!
//! | state | sends | goes on when |
//! |---|---|---|
//! | requesting | the request, every 100 ms | a challenge comes: responding |
//! | responding | the response, every 100 ms | a keep-alive comes: connected |
//! | connected | payloads, and keep-alives in silence (a tenth of the time-out) | goodbye: disconnected; silence: timed out |
//!
//! A failure while connecting goes on to the token's next server, after the last one to its error.
//! The token's lifetime bounds the whole attempt. One client object a token: the keys come with it.

use std::net::SocketAddr;

use super::limits::{
    CHALLENGE_BYTES, DISCONNECT_PACKETS, MAX_PAYLOAD_BYTES, MAX_TIMEOUT_MS, SEND_INTERVAL_MS,
    keep_alive_ms,
};
use super::outbound::Outbound;
use super::packet::{Header, Kind, PacketKey, Request, challenge_body, split_challenge_body};
use super::replay::ReplayWindow;
use super::server::SendError;
use super::token::{ConnectToken, TokenError};

/// Where a client is; the numbers are the standard's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum State {
    /// The token's lifetime was over before a server took it.
    TokenExpired = -6,
    /// No word from the server for the token's time-out.
    TimedOut = -4,
    /// No server confirmed the response.
    ResponseTimedOut = -3,
    /// No server answered the request.
    RequestTimedOut = -2,
    /// The last server was full.
    Denied = -1,
    /// Not started, or ended by either side.
    Disconnected = 0,
    /// Showing the token.
    Requesting = 1,
    /// Answering the challenge.
    Responding = 2,
    /// In session.
    Connected = 3,
}

impl State {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TokenExpired => "token expired",
            Self::TimedOut => "timed out",
            Self::ResponseTimedOut => "response timed out",
            Self::RequestTimedOut => "request timed out",
            Self::Denied => "denied",
            Self::Disconnected => "disconnected",
            Self::Requesting => "requesting",
            Self::Responding => "responding",
            Self::Connected => "connected",
        }
    }
}

/// One client's session with one server.
pub struct Client {
    token: ConnectToken,
    up: PacketKey,
    down: PacketKey,
    state: State,
    server: usize,
    started_ms: u64,
    received_ms: u64,
    sent_ms: Option<u64>,
    next_sequence: u64,
    window: ReplayWindow,
    challenge: (u64, [u8; CHALLENGE_BYTES]),
    index: u32,
    max_clients: u32,
    out: Outbound,
}

impl Client {
    /// Reads the token; [`Client::start`] begins.
    pub fn new(token: &[u8]) -> Result<Self, TokenError> {
        let token = ConnectToken::read(token)?;
        Ok(Self {
            up: PacketKey::new(&token.client_to_server),
            down: PacketKey::new(&token.server_to_client),
            token,
            state: State::Disconnected,
            server: 0,
            started_ms: 0,
            received_ms: 0,
            sent_ms: None,
            next_sequence: 0,
            window: ReplayWindow::default(),
            challenge: (0, [0; CHALLENGE_BYTES]),
            index: 0,
            max_clients: 0,
            out: Outbound::default(),
        })
    }

    /// Begins to connect to the token's first server.
    pub fn start(&mut self, now_ms: u64) {
        self.started_ms = now_ms;
        self.enter(now_ms, State::Requesting);
        self.handle_timeout(now_ms);
    }

    /// Where the client is.
    pub fn state(&self) -> State {
        self.state
    }

    /// The server that it talks to now.
    pub fn server(&self) -> SocketAddr {
        self.token.servers[self.server]
    }

    /// Unix seconds from which servers refuse the token.
    pub fn expire_s(&self) -> u64 {
        self.token.expire_s
    }

    /// Its number at the server and how many that serves, once connected.
    pub fn index(&self) -> (u32, u32) {
        (self.index, self.max_clients)
    }

    fn enter(&mut self, now_ms: u64, state: State) {
        self.state = state;
        self.received_ms = now_ms;
        self.sent_ms = None;
    }

    /// This server failed: the next one, or the error. Numbers go on, because the keys stay.
    fn fail(&mut self, now_ms: u64, error: State) {
        if self.server + 1 == self.token.servers.len() {
            self.state = error;
            return;
        }
        self.server += 1;
        self.window = ReplayWindow::default();
        self.enter(now_ms, State::Requesting);
    }

    /// One datagram, decrypted in its own buffer; the payload, if it is one. What is not from the
    /// server, not expected or not authentic has no effect.
    pub fn handle_datagram<'a>(
        &mut self,
        now_ms: u64,
        from: SocketAddr,
        datagram: &'a mut [u8],
    ) -> Option<&'a mut [u8]> {
        if from != self.server() {
            return None;
        }
        let header = Header::read(datagram).ok()?;
        if !self.expects(header.kind)
            || header.kind.is_replay_protected() && self.window.is_replay(header.sequence)
        {
            return None;
        }
        let body = self
            .down
            .open(self.token.protocol_id, &header, datagram)
            .ok()?;
        if header.kind.is_replay_protected() {
            self.window.record(header.sequence);
        }
        match header.kind {
            Kind::Denied => self.fail(now_ms, State::Denied),
            Kind::Challenge => self.handle_challenge(now_ms, body),
            Kind::KeepAlive => self.handle_keep_alive(now_ms, body),
            Kind::Disconnect => self.state = State::Disconnected,
            Kind::Payload => {
                self.received_ms = now_ms;
                return Some(body);
            }
            Kind::Request | Kind::Response => {}
        }
        None
    }

    fn expects(&self, kind: Kind) -> bool {
        match self.state {
            State::Requesting => matches!(kind, Kind::Denied | Kind::Challenge),
            State::Responding => matches!(kind, Kind::Denied | Kind::KeepAlive),
            State::Connected => matches!(kind, Kind::KeepAlive | Kind::Payload | Kind::Disconnect),
            _ => false,
        }
    }

    fn handle_challenge(&mut self, now_ms: u64, body: &mut [u8]) {
        let Some((sequence, sealed)) = split_challenge_body(body) else {
            return;
        };
        self.challenge = (sequence, *sealed);
        self.enter(now_ms, State::Responding);
        self.handle_timeout(now_ms);
    }

    fn handle_keep_alive(&mut self, now_ms: u64, body: &[u8]) {
        if self.state == State::Responding {
            let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| body[at + i]));
            (self.index, self.max_clients) = (word(0), word(4));
            self.enter(now_ms, State::Connected);
            self.handle_timeout(now_ms);
        }
        self.received_ms = now_ms;
    }

    /// Sends one payload to the server, unreliably.
    pub fn send(&mut self, now_ms: u64, payload: &[u8]) -> Result<(), SendError> {
        if self.state != State::Connected {
            return Err(SendError::UnknownClient);
        }
        if !(1..=MAX_PAYLOAD_BYTES).contains(&payload.len()) {
            return Err(SendError::Length {
                limit: MAX_PAYLOAD_BYTES,
                value: payload.len(),
            });
        }
        if self.send_packet(now_ms, Kind::Payload, payload) {
            Ok(())
        } else {
            Err(SendError::Full)
        }
    }

    /// Ends the session and tells the server, which may know it already when we don't.
    pub fn disconnect(&mut self, now_ms: u64) {
        if matches!(self.state, State::Responding | State::Connected) {
            for _ in 0..DISCONNECT_PACKETS {
                self.send_packet(now_ms, Kind::Disconnect, &[]);
            }
        }
        self.state = State::Disconnected;
    }

    fn send_packet(&mut self, now_ms: u64, kind: Kind, body: &[u8]) -> bool {
        let (sequence, to, protocol_id) =
            (self.next_sequence, self.server(), self.token.protocol_id);
        let key = &self.up;
        self.sent_ms = Some(now_ms);
        let sent = self
            .out
            .push(to, |out| key.seal(protocol_id, kind, sequence, body, out));
        self.next_sequence += u64::from(sent);
        sent
    }

    /// Time has passed: time-outs, repeats, keep-alives.
    pub fn handle_timeout(&mut self, now_ms: u64) {
        if self.state as i8 <= 0 {
            return;
        }
        let lifetime_ms = (self.token.expire_s - self.token.create_s).saturating_mul(1000);
        if self.state != State::Connected && now_ms.saturating_sub(self.started_ms) >= lifetime_ms {
            self.state = State::TokenExpired;
            return;
        }
        if self
            .timeout_ms()
            .is_some_and(|limit| now_ms.saturating_sub(self.received_ms) >= limit)
        {
            match self.state {
                State::Requesting => self.fail(now_ms, State::RequestTimedOut),
                State::Responding => self.fail(now_ms, State::ResponseTimedOut),
                _ => self.state = State::TimedOut,
            }
        }
        if self
            .sent_ms
            .is_none_or(|sent_ms| now_ms.saturating_sub(sent_ms) >= self.interval_ms())
        {
            self.send_what_is_due(now_ms);
        }
    }

    fn send_what_is_due(&mut self, now_ms: u64) {
        match self.state {
            State::Requesting => {
                let (to, token) = (self.server(), &self.token);
                self.out.push(to, |out| Request::write(token, out));
                self.sent_ms = Some(now_ms);
            }
            State::Responding => {
                let body = challenge_body(self.challenge.0, &self.challenge.1);
                self.send_packet(now_ms, Kind::Response, &body);
            }
            State::Connected => {
                self.send_packet(now_ms, Kind::KeepAlive, &[0; 8]);
            }
            _ => {}
        }
    }

    /// Between two of its own packets, if the application sends none.
    fn interval_ms(&self) -> u64 {
        match self.state {
            State::Connected => keep_alive_ms(self.timeout_ms().unwrap_or(MAX_TIMEOUT_MS)),
            _ => SEND_INTERVAL_MS,
        }
    }

    fn timeout_ms(&self) -> Option<u64> {
        u64::try_from(self.token.timeout_s)
            .ok()
            .filter(|&seconds| seconds > 0)
            .map(|seconds| seconds * 1000)
    }

    /// When [`Client::handle_timeout`] has something to do; `None` when it is over.
    pub fn poll_timeout(&self) -> Option<u64> {
        if self.state as i8 <= 0 {
            return None;
        }
        let send_ms = self
            .sent_ms
            .map_or(self.received_ms, |sent_ms| sent_ms + self.interval_ms());
        let silence_ms = self
            .timeout_ms()
            .map_or(u64::MAX, |limit| self.received_ms.saturating_add(limit));
        Some(send_ms.min(silence_ms))
    }

    /// The next datagram to send, and where to, until there is none.
    pub fn poll_datagram(&mut self) -> Option<(SocketAddr, &[u8])> {
        self.out.pop()
    }
}

#[cfg(test)]
impl Client {
    pub(super) fn challenge_for_tests(&self) -> (u64, [u8; CHALLENGE_BYTES]) {
        self.challenge
    }

    pub(super) fn set_challenge_for_tests(&mut self, challenge: (u64, [u8; CHALLENGE_BYTES])) {
        self.challenge = challenge;
    }
}
