//! Sessions with another implementation of the standard, over real sockets, in both directions.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use netcode::{ClientState, DisconnectReason, ServerEvent};
use zmqgame_core::edge::netcode::client::{Client, State};
use zmqgame_core::edge::netcode::server::{
    Ended, Event, Received, Server, ServerConfig, ServerEntropy,
};
use zmqgame_core::edge::netcode::token::{ConnectToken, TokenEntropy, TokenSpec};

const PROTOCOL_ID: u64 = 0xdead_beef;

fn unix_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn entropy<const N: usize>() -> [u8; N] {
    std::array::from_fn(|i| netcode::generate_key()[i % 32])
}

/// Turns `turn` until it says that it is done; panics when it takes too long.
fn until(what: &str, mut turn: impl FnMut(u64) -> bool) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        if turn(start.elapsed().as_millis() as u64) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("not in time: {what}");
}

/// A socket that gives what is there and never waits.
struct Wire(UdpSocket);

impl Wire {
    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        Self(socket)
    }

    fn receive(&self) -> Option<(SocketAddr, Vec<u8>)> {
        let mut buffer = [0; 2048];
        let (bytes, from) = self.0.recv_from(&mut buffer).ok()?;
        Some((from, buffer[..bytes].to_vec()))
    }
}

/// Our server on a real socket.
struct OurServer {
    wire: Wire,
    server: Server,
    payloads: Vec<Vec<u8>>,
    events: Vec<Event>,
}

impl OurServer {
    fn turn(&mut self, now_ms: u64) {
        while let Some((from, mut bytes)) = self.wire.receive() {
            if let Received::Payload { bytes, .. } =
                self.server.handle_datagram(now_ms, from, &mut bytes)
            {
                self.payloads.push(bytes.to_vec());
            }
        }
        self.server.handle_timeout(now_ms);
        while let Some((to, bytes)) = self.server.poll_datagram() {
            self.wire.0.send_to(bytes, to).unwrap();
        }
        while let Some(event) = self.server.poll_event() {
            self.events.push(event);
        }
    }
}

#[test]
fn their_client_holds_a_session_with_our_server() {
    let key = netcode::generate_key();
    let wire = Wire::new();
    let address = wire.0.local_addr().unwrap();
    let config = ServerConfig::new(PROTOCOL_ID, key, address, 10);
    let entropy = ServerEntropy::from_bytes(&entropy());
    let server = Server::new(config, &entropy, 0, unix_s() * 1000);
    let mut ours = OurServer {
        wire,
        server,
        payloads: Vec::new(),
        events: Vec::new(),
    };

    let mut theirs = netcode::Client::new("127.0.0.1:0".parse().unwrap(), 0.0).unwrap();
    let token = netcode::generate_connect_token(
        &[address],
        &[address],
        30,
        5,
        77,
        PROTOCOL_ID,
        &key,
        &[3; 256],
    );
    theirs.connect(&token.unwrap()).unwrap();
    until("connected", |now_ms| {
        theirs.update(now_ms as f64 / 1000.0);
        ours.turn(now_ms);
        theirs.state() == ClientState::Connected
    });
    assert_eq!(theirs.max_clients(), 10);
    let Event::Connected {
        client,
        client_id: 77,
        user_data,
        ..
    } = ours.events.remove(0)
    else {
        panic!("connected is the first event");
    };
    assert_eq!(*user_data, [3; 256]);

    let (mut sent, mut received) = (0u32, 0u32);
    until("100 payloads both ways", |now_ms| {
        if sent < 100 {
            theirs.send_packet(&sent.to_le_bytes().repeat(25)).unwrap();
            ours.server
                .send(now_ms, client, &sent.to_le_bytes().repeat(300))
                .unwrap();
            sent += 1;
        }
        theirs.update(now_ms as f64 / 1000.0);
        ours.turn(now_ms);
        while let Some((payload, _)) = theirs.receive_packet() {
            assert_eq!(payload, received.to_le_bytes().repeat(300));
            received += 1;
        }
        received == 100 && ours.payloads.len() == 100
    });
    assert_eq!(ours.payloads[99], 99u32.to_le_bytes().repeat(25));

    theirs.disconnect();
    until("the end", |now_ms| {
        ours.turn(now_ms);
        ours.events.contains(&Event::Disconnected {
            client,
            client_id: 77,
            why: Ended::ByClient,
        })
    });
    assert_eq!(ours.server.counters().failed_decryptions, 0);
}

#[test]
fn our_client_holds_a_session_with_their_server() {
    let key = netcode::generate_key();
    let mut theirs =
        netcode::Server::new("127.0.0.1:0".parse().unwrap(), PROTOCOL_ID, &key, 0.0).unwrap();
    theirs.start(4).unwrap();
    let spec = TokenSpec {
        protocol_id: PROTOCOL_ID,
        create_s: unix_s(),
        expire_s: unix_s() + 30,
        timeout_s: 5,
        client_id: 78,
        servers: &[theirs.address()],
        user_data: &[4; 256],
    };
    let token = ConnectToken::generate(&spec, &key, TokenEntropy::from_bytes(&entropy())).unwrap();
    let (wire, mut ours) = (Wire::new(), Client::new(&token.write()[..]).unwrap());
    let mut payloads: Vec<Vec<u8>> = Vec::new();
    let mut turn = |ours: &mut Client, theirs: &mut netcode::Server, now_ms: u64| {
        while let Some((from, mut bytes)) = wire.receive() {
            if let Some(payload) = ours.handle_datagram(now_ms, from, &mut bytes) {
                payloads.push(payload.to_vec());
            }
        }
        ours.handle_timeout(now_ms);
        while let Some((to, bytes)) = ours.poll_datagram() {
            wire.0.send_to(bytes, to).unwrap();
        }
        theirs.update(now_ms as f64 / 1000.0);
        payloads.len()
    };

    ours.start(0);
    until("connected", |now_ms| {
        turn(&mut ours, &mut theirs, now_ms);
        ours.state() == State::Connected
    });
    assert_eq!(
        theirs.next_event(),
        Some(ServerEvent::ClientConnected { client_index: 0 })
    );
    assert_eq!(
        (theirs.client_id(0), theirs.client_user_data(0)),
        (78, Some(&[4; 256]))
    );
    assert_eq!(ours.index(), (0, 4));

    let (mut sent, mut received) = (0u32, 0);
    until("100 payloads both ways", |now_ms| {
        if sent < 100 {
            ours.send(now_ms, &sent.to_le_bytes().repeat(300)).unwrap();
            theirs.send_packet(0, &sent.to_le_bytes()).unwrap();
            sent += 1;
        }
        let got = turn(&mut ours, &mut theirs, now_ms);
        while let Some((payload, _)) = theirs.receive_packet(0) {
            assert_eq!(payload, (received as u32).to_le_bytes().repeat(300));
            received += 1;
        }
        (got, received) == (100, 100)
    });

    ours.disconnect(0);
    until("the end", |now_ms| {
        turn(&mut ours, &mut theirs, now_ms);
        let reason = DisconnectReason::ClientDisconnect;
        theirs.next_event()
            == Some(ServerEvent::ClientDisconnected {
                client_index: 0,
                reason,
            })
    });
}
