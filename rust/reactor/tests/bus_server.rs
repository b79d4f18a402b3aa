//! The server's loop over real sockets, with a router that sends everything back.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use zmqgame_core::zmtp::{Config, Established, Event, Peer, Role, SecretKey, Security};
use zmqgame_reactor::bus::limits::{
    ADDRESS_BURST, ADDRESS_RATE, MAX_HANDSHAKES, OUT_HIGH_BYTES, PARTIAL_MAX_BYTES,
};
use zmqgame_reactor::bus::server::{Action, Conn, Router, Server, Watch};
use zmqgame_reactor::listener::Listener;
use zmqgame_reactor::wake::Wake;

/// Sends each frame back to where it came from, unless that one reads too slowly.
#[derive(Default)]
struct Echo {
    actions: VecDeque<Action>,
    full: Vec<Conn>,
    refused: u64,
}

impl Router for Echo {
    fn connected(&mut self, _: u64, conn: Conn, _: &Established, _: &str) {
        let bytes = b"hello".to_vec();
        self.actions.push_back(Action::Send { conn, bytes });
    }
    fn frame(&mut self, _: u64, conn: Conn, frame: &[u8]) {
        if frame == b"close me" {
            let why = "asked".to_owned();
            return self.actions.push_back(Action::Close { conn, why });
        }
        if self.full.contains(&conn) {
            self.refused += 1;
            return;
        }
        let bytes = frame.to_vec();
        self.actions.push_back(Action::Send { conn, bytes });
    }
    fn progress(&mut self, _: u64, _: Conn) {}
    fn disconnected(&mut self, _: u64, conn: Conn) {
        self.full.retain(|&full| full != conn);
    }
    fn set_writable(&mut self, conn: Conn, writable: bool) {
        self.full.retain(|&full| full != conn);
        if !writable {
            self.full.push(conn);
        }
    }
    fn woken(&mut self, _: u64) {}
    fn poll_timeout(&mut self) -> Option<u64> {
        None
    }
    fn timeout(&mut self, _: u64) {}
    fn poll(&mut self, _: u64) -> Option<Action> {
        self.actions.pop_front()
    }
}

struct Running {
    address: String,
    watch: Arc<Watch>,
    stop: Arc<AtomicBool>,
    wake: Wake,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn new(config: Config) -> Self {
        let listener = Listener::bind_tcp("127.0.0.1:0", false).unwrap();
        let address = listener.address();
        let wake = Wake::new().unwrap();
        let mut server =
            Server::new(Echo::default(), config, vec![listener], wake.clone()).unwrap();
        let watch = server.watch();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                server.turn(None).unwrap();
            }
        });
        Self {
            address,
            watch,
            stop,
            wake,
            thread: Some(thread),
        }
    }

    fn null() -> Self {
        Self::new(Config::new(Role::Server, Security::Null))
    }

    /// Closes who has not finished its handshake by then; long enough for those who mean it.
    fn impatient() -> Self {
        let mut config = Config::new(Role::Server, Security::Null);
        config.handshake_ms = 3_000;
        Self::new(config)
    }

    fn wait_closed(&self, kind: &str, at_least: u64) {
        let until = Instant::now() + Duration::from_secs(60);
        while self.watch.counters().closed.get(kind).copied().unwrap_or(0) < at_least {
            assert!(
                Instant::now() < until,
                "no {kind}: {:?}",
                self.watch.counters()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn client(&self) -> Client {
        Client::new(&self.address, Config::new(Role::Client, Security::Null))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.wake.wake();
        self.thread.take().unwrap().join().unwrap();
    }
}

/// A blocking DEALER.
struct Client {
    stream: TcpStream,
    peer: Peer,
    frames: VecDeque<Vec<u8>>,
}

impl Client {
    fn new(address: &str, config: Config) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let peer = Peer::new(Arc::new(config), 0, [5; 96]);
        let mut client = Self {
            stream,
            peer,
            frames: VecDeque::new(),
        };
        assert_eq!(client.receive(), Some(b"hello".to_vec()));
        client
    }

    fn flush(&mut self) {
        let bytes = self.peer.out().take();
        self.stream.write_all(&bytes).unwrap();
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        let mut buffer = [0; 65_536];
        while self.frames.is_empty() {
            self.flush();
            let count = match self.stream.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
                Err(error) => panic!("{error}"),
            };
            if count == 0 {
                return None;
            }
            let frames = &mut self.frames;
            let sink = &mut |event: Event<'_>| {
                if let Event::Frame(frame) = event {
                    frames.push_back(frame.to_vec());
                }
            };
            self.peer
                .handle_input(0, &mut buffer[..count], sink)
                .unwrap();
        }
        self.frames.pop_front()
    }

    fn round_trip(&mut self, message: &[u8]) {
        assert!(self.peer.send(message));
        assert_eq!(self.receive().as_deref(), Some(message));
    }
}

#[test]
fn many_clients_and_sizes() {
    let server = Running::null();
    let mut clients: Vec<Client> = (0..20).map(|_| server.client()).collect();
    for size in [0, 1, 255, 256, 70_000, 1_500_000] {
        for client in &mut clients {
            client.round_trip(&vec![size as u8; size]);
        }
    }
    for client in &mut clients {
        for index in 0u32..2_000 {
            client.peer.send(&index.to_le_bytes());
        }
        for index in 0u32..2_000 {
            assert_eq!(client.receive().unwrap(), index.to_le_bytes());
        }
    }
    drop(clients);
    server.wait_closed("disconnected", 20);
    assert_eq!(server.watch.connections(), 0);
}

#[test]
fn bad_peers_are_refused_by_kind_and_the_others_go_on() {
    let server = Running::impatient();
    let mut good = server.client();
    let greeting = Peer::new(
        Arc::new(Config::new(Role::Client, Security::Null)),
        0,
        [0; 96],
    )
    .out()
    .take();
    let mut huge = greeting.clone();
    huge.extend_from_slice(&[6, 0x7f, 0, 0, 0, 0, 0, 0, 0]);
    let mut curve = greeting.clone();
    curve[12..17].copy_from_slice(b"CURVE");
    let cases: [(&str, &[u8]); 5] = [
        ("not_zmtp", b"GET / HTTP/1.1\r\n\r\n"),
        ("old_version", &[0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 1, 5]),
        ("frame_too_large", &huge),
        ("mechanism", &curve),
        ("handshake_timeout", &greeting[..20]),
    ];
    let mut held = Vec::new();
    for (kind, bytes) in cases {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream.write_all(bytes).unwrap();
        held.push(stream);
        server.wait_closed(kind, 1);
        good.round_trip(b"still here");
    }
    let lines = server.watch.take_log();
    assert_eq!(lines.len(), cases.len());
    assert!(
        lines
            .iter()
            .all(|line| line.address.starts_with("127.0.0.1:") && !line.text.is_empty())
    );
}

#[test]
fn a_close_by_the_router_comes_after_what_was_sent() {
    let server = Running::null();
    let mut client = server.client();
    client.peer.send(b"last");
    client.peer.send(b"close me");
    assert_eq!(client.receive().as_deref(), Some(&b"last"[..]));
    assert_eq!(client.receive(), None);
    server.wait_closed("closed_by_hub", 1);
    server.client().round_trip(b"next");
}

#[test]
fn a_flood_of_silent_connections_does_not_shut_honest_ones_out() {
    let server = Running::impatient();
    let flood: Vec<TcpStream> = (0..MAX_HANDSHAKES + 40)
        .map(|_| TcpStream::connect(&server.address).unwrap())
        .collect();
    server.wait_closed("too_many_handshakes", 40);
    server.client().round_trip(b"hello");
    server.wait_closed("handshake_timeout", MAX_HANDSHAKES as u64 - 1);
    drop(flood);
}

#[test]
fn a_reader_that_does_not_read_is_bounded_and_harms_no_one() {
    let server = Running::null();
    let mut slow = server.client();
    let mut good = server.client();
    let message = vec![1; 64 * 1024];
    // The kernel takes some MB on both sides; after that the router is told to hold back.
    let mut sent = 0;
    while sent < 8 * OUT_HIGH_BYTES {
        slow.peer.send(&message);
        slow.flush();
        sent += message.len();
        if sent % (16 * message.len()) == 0 {
            good.round_trip(b"fine");
        }
    }
    good.round_trip(b"fine");
    // Then it reads after all, and gets whole messages, as many as were not refused.
    for _ in 0..16 {
        assert_eq!(slow.receive().unwrap(), message);
    }
    assert_eq!(server.watch.counters().closed.get("slow_reader"), None);
}

fn curve() -> (Config, Config) {
    let server = SecretKey::new([1; 32]);
    let client = Security::CurveClient {
        server: server.public(),
        secret: SecretKey::new([2; 32]),
    };
    let server = Security::CurveServer {
        secret: server,
        allowed: None,
    };
    (
        Config::new(Role::Server, server),
        Config::new(Role::Client, client),
    )
}

/// More handshakes than an address may begin, each as far as the server's costly part, while a peer that was
/// there before goes on.
#[test]
fn a_flood_of_handshakes_is_bounded_and_others_go_on() {
    let (server_config, client_config) = curve();
    let server = Running::new(server_config);
    let mut good = Client::new(&server.address, client_config.clone());
    let began = Instant::now();
    let mut honest = Peer::new(Arc::new(client_config), 0, [7; 96]);
    let mut start = honest.out().take();
    let mut greeting = Peer::new(Arc::new(curve().0), 0, [0; 96]).out().take();
    honest.handle_input(0, &mut greeting, &mut |_| ()).unwrap();
    start.extend_from_slice(&honest.out().take());
    let mut held = VecDeque::new();
    for number in 0..2_000 {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        // Refused ones are reset under our hands.
        let _refused = stream.write_all(&start);
        held.push_back(stream);
        if held.len() > 200 {
            held.pop_front();
        }
        if number % 50 == 0 {
            good.round_trip(b"while others knock");
        }
    }
    good.round_trip(b"after it");
    // What it had not looked at yet may come later by some seconds.
    let seconds = began.elapsed().as_secs() + 3;
    let allowed = ADDRESS_BURST + seconds * ADDRESS_RATE;
    server.wait_closed("too_many_handshakes", 2_001_u64.saturating_sub(allowed));
    assert_eq!(server.watch.counters().established, 1);
}

/// All links together hold no more of unfinished frames than the limit; who is cut is one that holds much.
#[test]
fn unfinished_frames_of_all_links_have_one_bound() {
    let server = Running::null();
    let mut good = server.client();
    let size = 2_000_000;
    let mut held = Vec::new();
    for _ in 0..=PARTIAL_MAX_BYTES / size {
        let mut client = server.client();
        let mut head = vec![2];
        head.extend_from_slice(&(size as u64).to_be_bytes());
        head.resize(size, 0);
        client.stream.write_all(&head).unwrap();
        held.push(client);
        good.round_trip(b"small ones pass");
    }
    server.wait_closed("unfinished_frames", 1);
    good.round_trip(b"still here");
    drop(held);
    // What was held is given back: once more the same is possible.
    let closed = server.watch.counters().closed["unfinished_frames"];
    assert!(closed <= 2, "{closed} were cut");
    server.client().round_trip(&vec![7; 1_900_000]);
}

#[test]
fn keys_change_for_connections_to_come() {
    let (server_config, client_config) = curve();
    let listener = Listener::bind_tcp("127.0.0.1:0", false).unwrap();
    let address = listener.address();
    let wake = Wake::new().unwrap();
    let mut server =
        Server::new(Echo::default(), server_config, vec![listener], wake.clone()).unwrap();
    let watch = server.watch();
    let (change, changes) = std::sync::mpsc::channel::<Option<Config>>();
    let thread = std::thread::spawn(move || {
        loop {
            server.turn(Some(5)).unwrap();
            match changes.try_recv() {
                Ok(Some(config)) => server.set_config(config),
                Ok(None) => return,
                Err(_) => {}
            }
        }
    });
    let mut before = Client::new(&address, client_config.clone());
    let security = Security::CurveServer {
        secret: SecretKey::new([9; 32]),
        allowed: None,
    };
    let rotated = Config::new(Role::Server, security);
    let both = rotated.clone().with_previous(SecretKey::new([1; 32]));
    change.send(Some(both)).unwrap();
    let new_config = Config::new(
        Role::Client,
        Security::CurveClient {
            server: SecretKey::new([9; 32]).public(),
            secret: SecretKey::new([2; 32]),
        },
    );
    // The change is taken within a turn; until then the new key is refused.
    let until = Instant::now() + Duration::from_secs(60);
    let connects = |config: &Config| {
        std::panic::catch_unwind(|| drop(Client::new(&address, config.clone()))).is_ok()
    };
    while !connects(&new_config) {
        assert!(Instant::now() < until);
    }
    Client::new(&address, client_config.clone()).round_trip(b"by the old key");
    before.round_trip(b"as before");
    change.send(Some(rotated)).unwrap();
    while connects(&client_config) {
        assert!(Instant::now() < until);
    }
    before.round_trip(b"a link outlives its server's key");
    Client::new(&address, new_config).round_trip(b"by the new one");
    assert!(watch.counters().closed["authentication"] >= 1);
    change.send(None).unwrap();
    wake.wake();
    thread.join().unwrap();
}
