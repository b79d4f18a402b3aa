//! Any order of arrivals, departures, damage, repeats, thefts and silence: the server's tables agree
//! with each other after every step, and nothing is delivered twice.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::client::Client;
use super::pair_tests::{TokenChoice, client_address, new_server, server_address, token};
use super::server::{Event, Received, Server};

/// What a hostile and clumsy world does next.
#[derive(Clone, Debug)]
enum Step {
    /// A person comes (again) with a new token, at one of a few addresses, as one of a few ids.
    Arrive {
        address: u64,
        id: u64,
        timeout_s: i32,
    },
    /// Everybody's timers run, after this long.
    Wait { ms: u64 },
    /// A datagram on the way arrives; it may stay on the way too, to arrive again later.
    Deliver {
        which: prop::sample::Index,
        again: bool,
        elsewhere: Option<u64>,
    },
    /// A datagram on the way is damaged.
    Damage {
        which: prop::sample::Index,
        bit: prop::sample::Index,
    },
    /// The newest person at an address sends something, or leaves.
    Speak { address: u64, leaves: bool },
    /// The server ends its nth session, or sends to it.
    Serve {
        which: prop::sample::Index,
        ends: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<prop::sample::Index>;
    let step = prop_oneof![
        2 => (0u64..6, 0u64..8, -1i32..4).prop_map(|(address, id, timeout_s)| Step::Arrive { address, id, timeout_s }),
        3 => prop_oneof![1u64..200, 200u64..5000].prop_map(|ms| Step::Wait { ms }),
        12 => (index(), prop::bool::weighted(0.2), prop::option::weighted(0.05, 0u64..6))
            .prop_map(|(which, again, elsewhere)| Step::Deliver { which, again, elsewhere }),
        1 => (index(), index()).prop_map(|(which, bit)| Step::Damage { which, bit }),
        3 => (0u64..6, prop::bool::weighted(0.1)).prop_map(|(address, leaves)| Step::Speak { address, leaves }),
        2 => (index(), prop::bool::weighted(0.2)).prop_map(|(which, ends)| Step::Serve { which, ends }),
    ];
    prop::collection::vec(step, 1..250)
}

/// A server of four slots, six addresses, and whoever is at them.
struct Chaos {
    now_ms: u64,
    server: Server,
    here: Vec<Option<Client>>,
    arrivals: u64,
    spoken: u64,
    way: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
    live: Vec<u64>,
    got: Vec<Vec<u8>>,
}

impl Chaos {
    fn new() -> Self {
        Self {
            now_ms: 0,
            server: new_server(4),
            here: (0..6).map(|_| None).collect(),
            arrivals: 0,
            spoken: 0,
            way: Vec::new(),
            live: Vec::new(),
            got: Vec::new(),
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Arrive {
                address,
                id,
                timeout_s,
            } => {
                self.arrivals += 1;
                let choice = TokenChoice {
                    timeout_s,
                    ..TokenChoice::default()
                };
                let mut client = Client::new(&token(id, self.arrivals, &choice)[..]).unwrap();
                client.start(self.now_ms);
                self.here[address as usize] = Some(client);
            }
            Step::Wait { ms } => {
                self.now_ms += ms;
                self.server.handle_timeout(self.now_ms);
                self.here
                    .iter_mut()
                    .flatten()
                    .for_each(|client| client.handle_timeout(self.now_ms));
            }
            Step::Deliver {
                which,
                again,
                elsewhere,
            } if !self.way.is_empty() => {
                let at = which.index(self.way.len());
                let (from, to, bytes) = if again {
                    self.way[at].clone()
                } else {
                    self.way.swap_remove(at)
                };
                self.deliver(elsewhere.map_or(from, client_address), to, bytes);
            }
            Step::Damage { which, bit } if !self.way.is_empty() => {
                let at = which.index(self.way.len());
                let bytes = &mut self.way[at].2;
                let bit = bit.index(bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            Step::Speak { address, leaves } => {
                let Some(client) = &mut self.here[address as usize] else {
                    return;
                };
                if leaves {
                    client.disconnect(self.now_ms);
                } else if client.send(self.now_ms, &self.spoken.to_le_bytes()).is_ok() {
                    self.spoken += 1;
                }
            }
            Step::Serve { which, ends } if !self.live.is_empty() => {
                let client = self.live[which.index(self.live.len())];
                if ends {
                    assert!(self.server.disconnect(self.now_ms, client));
                } else {
                    self.server.send(self.now_ms, client, b"snapshot").unwrap();
                }
            }
            Step::Deliver { .. } | Step::Damage { .. } | Step::Serve { .. } => {}
        }
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, mut bytes: Vec<u8>) {
        if to == server_address() {
            let received = self.server.handle_datagram(self.now_ms, from, &mut bytes);
            if let Received::Payload { client, bytes, .. } = received {
                assert!(self.live.contains(&client), "a payload outside a session");
                self.got.push(bytes.to_vec());
            }
        } else if let Some(number) = (0..6).find(|&n| client_address(n) == to)
            && let Some(client) = &mut self.here[number as usize]
            && let Some(payload) = client.handle_datagram(self.now_ms, from, &mut bytes)
        {
            assert_eq!(payload, b"snapshot");
        }
    }

    /// What happened is taken note of; what goes out is put on the way.
    fn settle(&mut self) {
        while let Some(event) = self.server.poll_event() {
            match event {
                Event::Connected { client, .. } => self.live.push(client),
                Event::Disconnected { client, .. } => {
                    let at = self
                        .live
                        .iter()
                        .position(|&key| key == client)
                        .expect("ends once");
                    self.live.remove(at);
                }
            }
        }
        while let Some((to, bytes)) = self.server.poll_datagram() {
            self.way.push((server_address(), to, bytes.to_vec()));
        }
        for (number, client) in self.here.iter_mut().enumerate() {
            let Some(client) = client else { continue };
            while let Some((to, bytes)) = client.poll_datagram() {
                self.way
                    .push((client_address(number as u64), to, bytes.to_vec()));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_order_of_events_breaks_the_server(steps in steps()) {
        let mut chaos = Chaos::new();
        for step in steps {
            chaos.take(step);
            chaos.settle();
            chaos.server.assert_consistent();
            prop_assert_eq!(chaos.server.connected(), chaos.live.len());
            prop_assert!(chaos.live.len() <= 4);
        }
        let received = chaos.got.len();
        chaos.got.sort();
        chaos.got.dedup();
        prop_assert_eq!(chaos.got.len(), received, "a payload came twice");
        // Silence ends everything, whatever was going on.
        chaos.now_ms += 61_000;
        chaos.server.handle_timeout(chaos.now_ms);
        chaos.settle();
        prop_assert_eq!((chaos.live.len(), chaos.server.pending()), (0, 0));
        chaos.server.handle_timeout(chaos.now_ms + 61_000);
        prop_assert_eq!(chaos.server.poll_timeout(), None);
    }
}
