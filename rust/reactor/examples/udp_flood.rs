//! The load of the edge's netcode row: sessions that send single datagrams in turn for as long as asked, as
//! fast as one thread can; nothing is awaited but the sessions' begin.
//!
//! `udp_flood ADDRESS SESSIONS plain|netcode BYTES SECONDS`. The netcode key is 32 times 5, the protocol 1.

use std::error::Error;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use zmqgame_core::edge::netcode::client::{Client, State};
use zmqgame_core::edge::netcode::token::{ConnectToken, TokenEntropy, TokenSpec};
use zmqgame_core::stream::packet::Header;

const KEY: [u8; 32] = [5; 32];
const PROTOCOL: u64 = 1;
/// How long the sessions may take to begin.
const BEGIN: Duration = Duration::from_secs(10);
/// Datagrams of each session between two looks at the clock.
const TURNS: usize = 8;

struct Player {
    socket: UdpSocket,
    session: Option<Client>,
}

impl Player {
    fn new(server: SocketAddr, session: Option<Client>) -> Result<Self, Box<dyn Error>> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, session })
    }

    /// What the server said, and what is to be said to it.
    fn turn(&mut self, server: SocketAddr, now_ms: u64) {
        let Some(session) = &mut self.session else {
            return;
        };
        let mut buffer = [0; 2_048];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            session.handle_datagram(now_ms, server, &mut buffer[..length]);
        }
        session.handle_timeout(now_ms);
        self.flush();
    }

    /// One packet. A full socket loses it, as a network would.
    fn send(&mut self, now_ms: u64, packet: &[u8]) {
        if let Some(session) = &mut self.session {
            let _ = session.send(now_ms, packet);
            self.flush();
        } else {
            let _ = self.socket.send(packet);
        }
    }

    fn flush(&mut self) {
        while let Some((_, bytes)) = self.session.as_mut().and_then(Client::poll_datagram) {
            let _ = self.socket.send(bytes);
        }
    }

    fn is_ready(&self) -> bool {
        let session = self.session.as_ref();
        session.is_none_or(|session| session.state() == State::Connected)
    }
}

fn session(server: SocketAddr, client_id: u64) -> Result<Client, Box<dyn Error>> {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let spec = TokenSpec {
        protocol_id: PROTOCOL,
        create_s: now_s,
        expire_s: now_s + 60,
        timeout_s: 10,
        client_id,
        servers: &[server],
        user_data: &[0; 256],
    };
    let mut random = [0; TokenEntropy::BYTES];
    zmqgame_reactor::random(&mut random)?;
    let token = ConnectToken::generate(&spec, &KEY, TokenEntropy::from_bytes(&random))?;
    let mut client = Client::new(&token.write()[..])?;
    client.start(0);
    Ok(client)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, sessions, kind, bytes, seconds] = arguments.as_slice() else {
        return Err("usage: udp_flood ADDRESS SESSIONS plain|netcode BYTES SECONDS".into());
    };
    let server: SocketAddr = address.parse()?;
    let mut players = Vec::new();
    for client_id in 0..sessions.parse()? {
        let session = match kind.as_str() {
            "netcode" => Some(session(server, client_id)?),
            _ => None,
        };
        players.push(Player::new(server, session)?);
    }
    let start = Instant::now();
    while !players.iter().all(Player::is_ready) {
        if start.elapsed() > BEGIN {
            return Err("the sessions did not begin".into());
        }
        let now_ms = start.elapsed().as_millis() as u64;
        players
            .iter_mut()
            .for_each(|player| player.turn(server, now_ms));
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut packet = Vec::new();
    let header = Header {
        kind: 3,
        sequence: 9,
    };
    header.write(&mut packet);
    packet.resize(bytes.parse()?, b'x');
    let (duration, flood) = (Duration::from_secs_f64(seconds.parse()?), Instant::now());
    let mut sent = 0;
    while flood.elapsed() < duration {
        let now_ms = start.elapsed().as_millis() as u64;
        for _ in 0..TURNS {
            for player in &mut players {
                player.send(now_ms, &packet);
            }
        }
        sent += TURNS * players.len();
    }
    println!("{{\"sent\":{sent}}}");
    Ok(())
}
