//! Ten thousand netcode clients, each with a socket of its own, on one edge.

mod common;

use std::time::{Duration, Instant};

use zmqgame_core::edge::netcode::client::State;
use zmqgame_reactor::edge::Edge;
use zmqgame_reactor::edge::config::EdgeConfig;

use common::Echo;
use common::player::{Player, Realm};

const CLIENTS: u64 = 10_000;
/// Clients that begin at once: as many requests fit into the smallest socket buffer.
const WAVE: usize = 100;
const DEADLINE: Duration = Duration::from_secs(100);

const REALM: Realm = Realm {
    protocol_id: 1,
    private_key: [5; 32],
    user_data: [0; 256],
};

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
    let address = edge
        .listen_udp("127.0.0.1:0", None, REALM.protocol_id, REALM.private_key)
        .unwrap();
    let server = address.parse().unwrap();
    let start = Instant::now();
    let mut players: Vec<Player> = (0..CLIENTS)
        .map(|id| Player::new(&REALM.token(id, 60, &[server])))
        .collect();
    let mut all_until =
        |what: &str, begin: &mut dyn FnMut(&mut Player, usize), done: &dyn Fn(&Player) -> bool| {
            for first in (0..players.len()).step_by(WAVE) {
                let wave = first..first + WAVE;
                for (number, player) in players[wave.clone()].iter_mut().enumerate() {
                    begin(player, first + number);
                }
                loop {
                    players[wave.clone()].iter_mut().for_each(Player::turn);
                    if players[wave.clone()].iter().all(done) {
                        break;
                    }
                    assert!(start.elapsed() < DEADLINE, "{what}: {first}");
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        };
    let connected = |player: &Player| player.is(State::Connected);
    all_until("connected", &mut |player, _| player.begin(), &connected);
    assert_eq!(edge.connections(), CLIENTS as usize);
    all_until(
        "echo",
        &mut |player, number| player.send(3, number as u64, &(number as u64).to_be_bytes()),
        &|player| !player.got.is_empty(),
    );
    for (number, player) in players.iter().enumerate() {
        assert_eq!(player.got.len(), 1);
        assert_eq!(player.got[0][12..], (number as u64).to_be_bytes());
    }
    assert_eq!(edge.connections(), CLIENTS as usize);
    edge.stop(100);
}
