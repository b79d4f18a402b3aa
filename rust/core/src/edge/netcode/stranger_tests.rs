//! What strangers can make a server do, summed up in bytes: never more out than in, never an answer to what is
//! not a whole good request, one failed decryption a datagram at most.

use std::net::SocketAddr;

use super::client::{Client, State};
use super::limits::{REQUEST_BYTES, SEND_INTERVAL_MS};
use super::pair_tests::{
    PROTOCOL_ID, TokenChoice, UNIX_S, client_address, new_server, server_address, token,
};
use super::server::{Server, ServerConfig, ServerEntropy};

/// A server with what has gone in and out of it.
struct Counted {
    server: Server,
    now_ms: u64,
    bytes_in: usize,
    bytes_out: usize,
    answers: usize,
}

impl Counted {
    fn new(max_clients: u32) -> Self {
        Self {
            server: new_server(max_clients),
            now_ms: 0,
            bytes_in: 0,
            bytes_out: 0,
            answers: 0,
        }
    }

    /// One datagram, and all that comes out because of it; gives the answers.
    fn take(&mut self, from: SocketAddr, datagram: &[u8]) -> Vec<Vec<u8>> {
        let failed = self.server.counters().failed_decryptions;
        self.server
            .handle_datagram(self.now_ms, from, &mut datagram.to_vec());
        let failures = self.server.counters().failed_decryptions - failed;
        assert!(
            failures <= 1,
            "{failures} decryptions failed for one datagram"
        );
        let mut answers = Vec::new();
        while let Some((to, bytes)) = self.server.poll_datagram() {
            assert_eq!(to, from, "an answer to somebody else");
            answers.push(bytes.to_vec());
        }
        let out: usize = answers.iter().map(Vec::len).sum();
        assert!(
            out == 0 || out < datagram.len(),
            "{out} bytes for {}",
            datagram.len()
        );
        self.bytes_in += datagram.len();
        self.bytes_out += out;
        self.answers += answers.len();
        answers
    }

    /// Time passes; whoever has not answered a challenge hears nothing by itself.
    fn wait(&mut self, ms: u64) {
        for _ in 0..ms / SEND_INTERVAL_MS {
            self.now_ms += SEND_INTERVAL_MS;
            self.server.handle_timeout(self.now_ms);
        }
    }

    fn silent(&mut self) -> bool {
        self.server.poll_datagram().is_none()
    }

    /// Connects the client to the end, without counting. Gives all that it sent.
    fn connect(&mut self, number: u64) -> (Client, Vec<Vec<u8>>) {
        let mut client = Client::new(&token(number, 0, &TokenChoice::default())[..]).unwrap();
        client.start(self.now_ms);
        let mut sent = Vec::new();
        while client.state() != State::Connected {
            while let Some((_, bytes)) = client.poll_datagram() {
                sent.push(bytes.to_vec());
                self.server.handle_datagram(
                    self.now_ms,
                    client_address(number),
                    &mut bytes.to_vec(),
                );
            }
            while let Some((_, bytes)) = self.server.poll_datagram() {
                client.handle_datagram(self.now_ms, server_address(), &mut bytes.to_vec());
            }
        }
        while let Some((_, bytes)) = client.poll_datagram() {
            sent.push(bytes.to_vec());
        }
        (client, sent)
    }
}

fn request(number: u64, choice: &TokenChoice) -> Vec<u8> {
    let mut client = Client::new(&token(number, 0, choice)[..]).unwrap();
    client.start(0);
    client.poll_datagram().unwrap().1.to_vec()
}

#[test]
fn noise_of_any_length_and_first_byte_is_answered_by_nothing() {
    let mut world = Counted::new(4);
    for first in 0..=255 {
        for length in (0..=40).chain([307, 308, 333, 1_077, 1_078, 1_079, 1_225, 1_400]) {
            let mut datagram = vec![0x5a; length];
            if let Some(byte) = datagram.first_mut() {
                *byte = first;
            }
            world.take(client_address(u64::from(first)), &datagram);
        }
    }
    world.wait(10_000);
    assert!(world.silent());
    assert_eq!((world.answers, world.bytes_out), (0, 0));
    assert!(world.bytes_in > 1_000_000);
    assert_eq!(world.server.pending(), 0);
}

#[test]
fn requests_that_are_forged_late_or_for_others_are_answered_by_nothing() {
    let mut world = Counted::new(4);
    let good = TokenChoice::default;
    let elsewhere = vec!["10.0.0.2:7612".parse().unwrap()];
    let mut bad = vec![
        request(
            1,
            &TokenChoice {
                private_key: [8; 32],
                ..good()
            },
        ),
        request(
            2,
            &TokenChoice {
                servers: elsewhere,
                ..good()
            },
        ),
        request(
            3,
            &TokenChoice {
                expire_s: UNIX_S + 1,
                ..good()
            },
        ),
    ];
    for at in (0..REQUEST_BYTES).step_by(7) {
        let mut damaged = request(4, &good());
        damaged[at] ^= 0x40;
        bad.push(damaged);
    }
    bad.extend(
        (1..REQUEST_BYTES)
            .step_by(7)
            .map(|length| request(4, &good())[..length].to_vec()),
    );
    world.wait(1_000);
    for datagram in &bad {
        world.take(client_address(1), datagram);
    }
    world.wait(10_000);
    assert!(world.silent());
    assert_eq!((world.answers, world.server.pending()), (0, 0));
}

#[test]
fn a_good_request_from_a_forged_address_draws_less_than_a_third_however_often() {
    let mut world = Counted::new(4);
    let datagram = request(1, &TokenChoice::default());
    for _ in 0..1_000 {
        world.take(client_address(9), &datagram);
        world.wait(SEND_INTERVAL_MS);
        assert!(world.silent(), "a challenge is not sent again by itself");
    }
    // The token's own time-out ends the wait for an answer; shown again it begins anew, until it expires.
    assert!(world.answers <= 1_000);
    assert!(
        world.bytes_out * 3 < world.bytes_in,
        "{} of {}",
        world.bytes_out,
        world.bytes_in
    );
    // From elsewhere the same token draws nothing.
    let before = world.answers;
    world.take(client_address(10), &datagram);
    assert_eq!(world.answers, before);
}

#[test]
fn a_full_server_says_so_in_few_bytes() {
    let mut world = Counted::new(1);
    let _inside = world.connect(1);
    for number in 2..100 {
        let answers = world.take(
            client_address(number),
            &request(number, &TokenChoice::default()),
        );
        assert_eq!(answers.len(), 1);
        assert!(answers[0].len() < 30, "{}", answers[0].len());
    }
    assert_eq!(world.server.pending(), 0);
}

#[test]
fn forged_and_repeated_packets_of_a_session_are_answered_by_nothing() {
    let mut world = Counted::new(4);
    let (mut client, mut sent) = world.connect(1);
    client.send(0, b"input").unwrap();
    sent.push(client.poll_datagram().unwrap().1.to_vec());
    let last = sent.last().unwrap().clone();
    // The payload's first coming is the client's own doing.
    world.take(client_address(1), &last);
    let payloads = world.server.counters().payloads;
    let answers = world.answers;
    for datagram in &sent {
        for from in [client_address(1), client_address(2)] {
            world.take(from, datagram);
            for at in 0..datagram.len().min(60) {
                let mut damaged = datagram.clone();
                damaged[at] ^= 1;
                world.take(from, &damaged);
            }
        }
    }
    assert_eq!(
        (world.server.counters().payloads, world.answers),
        (payloads, answers)
    );
    assert_eq!((world.server.connected(), world.server.pending()), (1, 0));
}

#[test]
fn a_restarted_server_that_sees_old_packets_answers_nothing() {
    let mut world = Counted::new(4);
    let (_client, sent) = world.connect(1);
    let config = ServerConfig::new(PROTOCOL_ID, [9; 32], server_address(), 4);
    let entropy = ServerEntropy::from_bytes(&[3; ServerEntropy::BYTES]);
    world.server = Server::new(config, &entropy, 0, UNIX_S * 1_000 + 60_000);
    for datagram in &sent {
        world.take(client_address(1), datagram);
    }
    assert_eq!(
        world.answers, 0,
        "the token has expired, the rest is of no session"
    );
}
