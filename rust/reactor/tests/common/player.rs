//! Core's netcode client on a socket, turned by hand.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use zmqgame_core::edge::netcode::client::{Client, State};
use zmqgame_core::edge::netcode::token::{ConnectToken, TokenEntropy, TokenSpec};
use zmqgame_core::stream::packet::Header;

use super::DEADLINE;

/// Who makes tokens: what server and token have to agree on.
pub struct Realm {
    pub protocol_id: u64,
    pub private_key: [u8; 32],
    pub user_data: [u8; 256],
}

impl Realm {
    /// A token, valid from now on for three minutes.
    pub fn token(&self, client_id: u64, timeout_s: i32, servers: &[SocketAddr]) -> [u8; 2048] {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let spec = TokenSpec {
            protocol_id: self.protocol_id,
            create_s: since.as_secs(),
            expire_s: since.as_secs() + 180,
            timeout_s,
            client_id,
            servers,
            user_data: &self.user_data,
        };
        let mut random = [0; TokenEntropy::BYTES];
        zmqgame_reactor::random(&mut random).unwrap();
        let entropy = TokenEntropy::from_bytes(&random);
        let token = ConnectToken::generate(&spec, &self.private_key, entropy);
        *token.unwrap().write()
    }
}

/// One client.
pub struct Player {
    pub socket: UdpSocket,
    pub session: Client,
    start: Instant,
    pub got: Vec<Vec<u8>>,
}

impl Player {
    /// With a token; [`Player::begin`] sends its first request.
    pub fn new(token: &[u8; 2048]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        Self {
            socket,
            session: Client::new(token).unwrap(),
            start: Instant::now(),
            got: Vec::new(),
        }
    }

    /// One that has begun.
    pub fn begun(token: &[u8; 2048]) -> Self {
        let mut player = Self::new(token);
        player.begin();
        player
    }

    pub fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    pub fn begin(&mut self) {
        self.session.start(self.now_ms());
    }

    pub fn is(&self, state: State) -> bool {
        self.session.state() == state
    }

    /// Takes what is there, and sends what is due.
    pub fn turn(&mut self) {
        let now_ms = self.now_ms();
        self.session.handle_timeout(now_ms);
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = self.socket.recv_from(&mut buffer) {
            let datagram = &mut buffer[..length];
            let payload = self.session.handle_datagram(now_ms, from, datagram);
            self.got.extend(payload.map(|payload| payload.to_vec()));
        }
        while let Some((to, bytes)) = self.session.poll_datagram() {
            // A full buffer is a lost datagram, as anywhere.
            let _ = self.socket.send_to(bytes, to);
        }
    }

    /// Turns it until something holds.
    pub fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            let state = self.session.state();
            assert!(begun.elapsed() < DEADLINE, "{what}: {state:?}");
            self.turn();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Queues a packet; it goes with the next turn.
    pub fn send(&mut self, kind: u8, sequence: u64, payload: &[u8]) {
        let mut packet = Vec::new();
        Header { kind, sequence }.write(&mut packet);
        packet.extend_from_slice(payload);
        self.session.send(self.now_ms(), &packet).unwrap();
    }
}
