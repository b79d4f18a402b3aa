//! Ten thousand netcode clients, each with a socket of its own, on one edge.

mod common;

use std::net::UdpSocket;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use zmqgame_core::edge::netcode::client::{Client, State};
use zmqgame_core::edge::netcode::token::{ConnectToken, TokenEntropy, TokenSpec};
use zmqgame_core::stream::packet::Header;
use zmqgame_reactor::edge::Edge;
use zmqgame_reactor::edge::config::EdgeConfig;

use common::Echo;

const CLIENTS: u64 = 10_000;
/// Clients that begin at once: as many requests fit into the smallest socket buffer.
const WAVE: usize = 100;
const PROTOCOL: u64 = 1;
const KEY: [u8; 32] = [5; 32];
const DEADLINE: Duration = Duration::from_secs(100);

struct Player {
    socket: UdpSocket,
    session: Client,
    got: Vec<u8>,
}

impl Player {
    fn new(server: &str, client_id: u64) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let spec = TokenSpec {
            protocol_id: PROTOCOL,
            create_s: since.as_secs(),
            expire_s: since.as_secs() + 200,
            timeout_s: 60,
            client_id,
            servers: &[server.parse().unwrap()],
            user_data: &[0; 256],
        };
        let random =
            std::array::from_fn(|index| (client_id >> (index % 8 * 8)) as u8 ^ index as u8);
        let token = ConnectToken::generate(&spec, &KEY, TokenEntropy::from_bytes(&random)).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(server).unwrap();
        socket.set_nonblocking(true).unwrap();
        let session = Client::new(&token.write()[..]).unwrap();
        let got = Vec::new();
        Self {
            socket,
            session,
            got,
        }
    }

    fn turn(&mut self, server: std::net::SocketAddr, now_ms: u64) {
        self.session.handle_timeout(now_ms);
        let mut buffer = [0; 2048];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let payload = self
                .session
                .handle_datagram(now_ms, server, &mut buffer[..length]);
            if let Some(payload) = payload {
                self.got = payload.to_vec();
            }
        }
        while let Some((_, bytes)) = self.session.poll_datagram() {
            // A full buffer is a lost datagram, as anywhere.
            let _ = self.socket.send(bytes);
        }
    }
}

/// Raises the soft limit of descriptors to the hard one. Gives whether that is enough.
fn descriptors() -> bool {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    limit.maximum.is_none_or(|most| most > CLIENTS + 100)
}

#[test]
fn ten_thousand_clients_are_in_session_at_once_and_each_gets_its_own() {
    if !descriptors() {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI allows too few descriptors"
        );
        eprintln!("skipped: ten thousand sockets are more than this user may open (ulimit -Hn)");
        return;
    }
    let edge = Edge::start_with(EdgeConfig::default(), |_| Some(Box::new(Echo))).unwrap();
    let address = edge.listen_udp("127.0.0.1:0", None, PROTOCOL, KEY).unwrap();
    let server = address.parse().unwrap();
    let start = Instant::now();
    let mut players: Vec<Player> = (0..CLIENTS).map(|id| Player::new(&address, id)).collect();
    let mut all_until = |what: &str,
                         begin: &mut dyn FnMut(&mut Player, u64, usize),
                         done: &dyn Fn(&Player) -> bool| {
        for first in (0..players.len()).step_by(WAVE) {
            let wave = first..first + WAVE;
            for (number, player) in players[wave.clone()].iter_mut().enumerate() {
                begin(player, start.elapsed().as_millis() as u64, first + number);
            }
            loop {
                let now_ms = start.elapsed().as_millis() as u64;
                for player in &mut players[wave.clone()] {
                    player.turn(server, now_ms);
                }
                if players[wave.clone()].iter().all(done) {
                    break;
                }
                assert!(start.elapsed() < DEADLINE, "{what}: {first}");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    };
    let connected = |player: &Player| player.session.state() == State::Connected;
    all_until(
        "connected",
        &mut |player, now_ms, _| player.session.start(now_ms),
        &connected,
    );
    assert_eq!(edge.connections(), CLIENTS as usize);
    let packet = |number: usize| {
        let mut packet = Vec::new();
        let header = Header {
            kind: 3,
            sequence: number as u64,
        };
        header.write(&mut packet);
        packet.extend_from_slice(&(number as u64).to_be_bytes());
        packet
    };
    all_until(
        "echo",
        &mut |player, now_ms, number| player.session.send(now_ms, &packet(number)).unwrap(),
        &|player| !player.got.is_empty(),
    );
    for (number, player) in players.iter().enumerate() {
        assert_eq!(player.got, packet(number));
    }
    assert_eq!(edge.connections(), CLIENTS as usize);
    edge.stop(100);
}
