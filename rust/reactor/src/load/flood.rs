//! A flood of datagrams: sessions that send in turn for as long as asked, as fast as one thread can; nothing
//! is awaited but the sessions' begin.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use zmqgame_core::edge::netcode::client::{Client, State};
use zmqgame_core::edge::netcode::limits::KEY_BYTES;
use zmqgame_core::edge::netcode::token::{ConnectToken, TokenEntropy, TokenSpec};
use zmqgame_core::stream::packet::{HEADER_BYTES, Header};

use super::{MOST_CONNECTIONS, wrong};

/// How long the sessions may take to begin.
const BEGIN: Duration = Duration::from_secs(30);
/// Datagrams of each session between two looks at the clock.
const TURNS: usize = 8;
/// Bytes of a packet: what a session takes.
const MOST_BYTES: usize = 1_200;

/// What is to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How many sessions, or sockets.
    pub sessions: usize,
    /// Bytes of a packet, its header included.
    pub packet_bytes: usize,
    /// Of netcode: the application and the key of its tokens. Plain datagrams without.
    pub netcode: Option<(u64, [u8; KEY_BYTES])>,
}

struct Player {
    socket: UdpSocket,
    session: Option<Client>,
}

impl Player {
    fn new(server: SocketAddr, session: Option<Client>) -> io::Result<Self> {
        let any = if server.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(any)?;
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

fn session(
    server: SocketAddr,
    client_id: u64,
    protocol_id: u64,
    key: &[u8; KEY_BYTES],
) -> io::Result<Client> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let create_s = now.map_err(io::Error::other)?.as_secs();
    let spec = TokenSpec {
        protocol_id,
        create_s,
        expire_s: create_s + 60,
        timeout_s: 30,
        client_id,
        servers: &[server],
        user_data: &[0; 256],
    };
    let mut random = [0; TokenEntropy::BYTES];
    crate::random(&mut random)?;
    let token = ConnectToken::generate(&spec, key, TokenEntropy::from_bytes(&random));
    let token = token.map_err(io::Error::other)?;
    let mut client = Client::new(&token.write()[..]).map_err(io::Error::other)?;
    client.start(0);
    Ok(client)
}

/// Begins the sessions and sends; gives how many datagrams.
///
/// # Errors
/// A number is out of its range, or the sessions don't begin.
pub fn run(address: &str, plan: &Plan, duration: Duration) -> io::Result<u64> {
    let fits = (1..=MOST_CONNECTIONS).contains(&plan.sessions)
        && (HEADER_BYTES..=MOST_BYTES).contains(&plan.packet_bytes);
    if !fits {
        return Err(wrong(
            "sessions must be 1 to 100,000, packet bytes 12 to 1,200",
        ));
    }
    let server = address
        .parse()
        .map_err(|_| wrong("the address must be host:port"))?;
    let mut players = Vec::with_capacity(plan.sessions);
    for client_id in 0..plan.sessions as u64 {
        let begun = |(protocol_id, key)| session(server, client_id, protocol_id, &key);
        players.push(Player::new(server, plan.netcode.map(begun).transpose()?)?);
    }
    let start = Instant::now();
    begin(&mut players, server, start)?;
    let mut packet = Vec::new();
    let header = Header {
        kind: 3,
        sequence: 9,
    };
    header.write(&mut packet);
    packet.resize(plan.packet_bytes, b'x');
    let (flood, mut sent) = (Instant::now(), 0);
    while flood.elapsed() < duration {
        let now_ms = start.elapsed().as_millis() as u64;
        for _ in 0..TURNS {
            for player in &mut players {
                player.send(now_ms, &packet);
            }
        }
        sent += (TURNS * players.len()) as u64;
    }
    Ok(sent)
}

fn begin(players: &mut [Player], server: SocketAddr, start: Instant) -> io::Result<()> {
    while !players.iter().all(Player::is_ready) {
        if start.elapsed() > BEGIN {
            let what = "the sessions did not begin";
            return Err(io::Error::new(ErrorKind::TimedOut, what));
        }
        let now_ms = start.elapsed().as_millis() as u64;
        for player in &mut *players {
            player.turn(server, now_ms);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
