//! Connections: hello, refusals, bad bytes, heartbeats, bounds.

use super::*;
use Outcome::Delivered;

fn hello_with(world: &mut World, change: impl FnOnce(&mut Hello<'_>)) -> (Conn, Option<ErrorCode>) {
    let conn = world.connect();
    let mut hello = Hello {
        version_min: 1,
        version_max: 1,
        node_key: node_key("n"),
        epoch: 5,
        connection: conn,
        highest_hub_epoch: 0,
        low: 0,
        features: 0,
        name: "n",
        roles: (&[]).into(),
    };
    change(&mut hello);
    world.say_raw(conn, &Message::Hello(hello));
    let node = Node {
        name: "n",
        conn,
        epoch: 5,
    };
    let received = world.take(&node);
    assert_eq!(
        received.error.is_none(),
        received
            .others
            .iter()
            .any(|other| other.starts_with("Welcome"))
    );
    (conn, received.error)
}

#[test]
fn hellos_are_refused_with_the_reason() {
    let mut world = World::new();
    assert_eq!(
        hello_with(&mut world, |hello| hello.version_min = 2).1,
        Some(ErrorCode::Version)
    );
    assert_eq!(
        hello_with(&mut world, |hello| hello.node_key = 7).1,
        Some(ErrorCode::NameTaken)
    );
    assert_eq!(hello_with(&mut world, |_| {}).1, None);
    assert_eq!(
        hello_with(&mut world, |hello| hello.epoch = 4).1,
        Some(ErrorCode::OldEpoch)
    );
    assert_eq!(
        hello_with(&mut world, |hello| hello.connection = 1).1,
        Some(ErrorCode::Replaced)
    );
    assert_eq!(world.closed.len(), 4);
    assert_eq!(world.hub.counters().hellos_refused, 4);
    assert_eq!(
        hello_with(&mut world, |hello| hello.version_max = 9).1,
        None
    );
}

#[test]
fn only_allowed_keys_may_use_a_name_and_a_role() {
    let allowed = Allowed {
        key: [7; 32],
        names: "game-*".into(),
        roles: vec!["game:*".into()],
    };
    let mut world = World::with(
        HubConfig {
            allowed: vec![allowed],
            ..small(1)
        },
        MemoryStore::default(),
    );
    let mut error = |key: Option<[u8; 32]>, name: &'static str, role: &'static str| {
        world.connections += 1;
        let conn = world.connections;
        world.hub.handle_connected(
            world.now,
            conn,
            Peer {
                key,
                address: String::new(),
            },
        );
        let roles = [role];
        let hello = Hello {
            version_min: 1,
            version_max: 1,
            node_key: node_key(name),
            epoch: 1,
            connection: conn,
            highest_hub_epoch: 0,
            low: 0,
            features: 0,
            name,
            roles: (&roles).into(),
        };
        world.say_raw(conn, &Message::Hello(hello));
        world
            .take(&Node {
                name,
                conn,
                epoch: 1,
            })
            .error
    };
    assert_eq!(
        error(None, "game-1", "game:game-1"),
        Some(ErrorCode::NotAllowed)
    );
    assert_eq!(
        error(Some([8; 32]), "game-1", "game:game-1"),
        Some(ErrorCode::NotAllowed)
    );
    assert_eq!(
        error(Some([7; 32]), "manager", "game:game-1"),
        Some(ErrorCode::NotAllowed)
    );
    assert_eq!(
        error(Some([7; 32]), "game-1", "manager"),
        Some(ErrorCode::NotAllowed)
    );
    assert_eq!(error(Some([7; 32]), "game-1", "game:game-1"), None);
}

#[test]
fn a_node_that_knows_a_later_hub_ends_this_one() {
    let mut world = World::new();
    assert_eq!(
        hello_with(&mut world, |hello| hello.highest_hub_epoch = 2).1,
        Some(ErrorCode::OldHub)
    );
    assert_eq!(world.exits.len(), 1);
}

#[test]
fn a_store_with_a_higher_hub_epoch_ends_this_hub() {
    let world = World::with(
        small(3),
        MemoryStore {
            hub_epoch: 4,
            ..MemoryStore::default()
        },
    );
    assert_eq!(world.exits.len(), 1);
}

#[test]
fn replaced_connection_is_not_read() {
    let mut world = World::new();
    let (sender, old) = (world.node("sender", 1), world.node("host", 1));
    let (login, binding) = world.login(&old, "p");
    world.send(&sender, 1, "p");
    let new = world.hello("host", 1);
    assert_eq!(world.take(&old).error, Some(ErrorCode::Replaced));
    world.ack(&old, binding, 1);
    world.say(
        &old,
        &Message::Login {
            claims: (&[Claim {
                player: "q",
                login: 0,
                request: 9,
            }])
                .into(),
        },
    );
    assert_eq!(world.take(&sender).outcomes(), vec![]);
    assert!(world.hub.players.find("q").is_none());
    let (_, binding) = world.register(&new, "p", login, true).unwrap();
    world.drop_link(&old); // Noticed late: it is not the new one's loss.
    world.ack(&new, binding, 1);
    assert_eq!(world.take(&sender).outcomes(), vec![(1, Delivered)]);
}

#[test]
fn bad_bytes_close_one_link_and_say_why() {
    let mut world = World::new();
    let (good, bad, early) = (world.node("good", 1), world.node("bad", 1), world.connect());
    world
        .hub
        .handle_frame(world.now, bad.conn, &[9, 0, 0, 0, 0x7f, 0, 0, 0, 1]);
    world.say_raw(early, &Message::Ping { nonce: 1, low: 0 });
    world.run();
    assert_eq!(world.take(&bad).error, Some(ErrorCode::Malformed));
    assert_eq!(world.closed.len(), 2);
    assert_eq!(world.hub.counters().malformed, 2);
    world.login(&good, "p");
}

#[test]
fn silence_closes_and_heartbeats_go_out() {
    let mut world = World::new();
    let (quiet, alive) = (world.node("quiet", 1), world.node("alive", 1));
    world.take(&alive);
    world.pass_with(&[&alive], 3_500);
    assert_eq!(world.take(&quiet).error, Some(ErrorCode::Silent));
    let others = world.take(&alive).others;
    assert!(others.iter().any(|other| other.starts_with("Pong")));
    world.pass(1_500);
    assert!(
        world
            .take(&alive)
            .others
            .iter()
            .any(|other| other.starts_with("Ping"))
    );
}

#[test]
fn old_epoch_after_hub_restart_is_refused() {
    let mut world = World::new();
    world.node("n", 7);
    let mut world = world.restart();
    let node = world.hello("n", 6);
    assert_eq!(world.take(&node).error, Some(ErrorCode::OldEpoch));
}

#[test]
fn a_link_that_backs_up_harms_no_other() {
    let config = HubConfig {
        link_bytes: 200,
        ..small(1)
    };
    let mut world = World::with(config, MemoryStore::default());
    let (sender, slow, fast) = (
        world.node("sender", 1),
        world.node("slow", 1),
        world.node("fast", 1),
    );
    let (_, slow_binding) = world.login(&slow, "s");
    let (_, fast_binding) = world.login(&fast, "f");
    world.hub.set_writable(slow.conn, false);
    world.received.clear();
    for seq in 1..=40 {
        world.send(&sender, seq, if seq % 2 == 0 { "s" } else { "f" });
        world.ack(&fast, fast_binding, (seq / 2 + 1) as u32);
    }
    let outcomes = world.take(&sender).outcomes();
    assert_eq!(outcomes.iter().filter(|o| o.1 == Delivered).count(), 20);
    assert!(
        world.store.rows("s").len() >= 12,
        "what does not fit is in the mailbox"
    );
    assert_eq!(world.take(&slow).seqs(), vec![]);
    world.hub.set_writable(slow.conn, true);
    world.run();
    let mut seen = Vec::new();
    loop {
        let next = world.take(&slow).delivered;
        let Some(last) = next.last().copied() else {
            break;
        };
        assert_eq!(last.0, slow_binding);
        seen.extend(next.iter().map(|d| d.2));
        world.ack(&slow, slow_binding, last.1);
    }
    seen.sort_unstable(); // In-flight ones come twice when they were spilled.
    seen.dedup();
    assert_eq!(seen, (1..=20).map(|n| 2 * n).collect::<Vec<_>>());
    assert!(world.store.is_empty());
}

/// The bytes of PROTOCOL.md section 7, in both directions.
#[test]
fn the_worked_example_of_the_protocol_holds() {
    let text = include_str!("../../../../../../bus/PROTOCOL.md");
    let section = text
        .split("## 7. A worked example")
        .nth(1)
        .and_then(|rest| rest.split("## 8.").next())
        .unwrap();
    let mut frames: Vec<Vec<u8>> = Vec::new();
    for line in section.lines() {
        match line
            .strip_prefix("    ")
            .and_then(|line| line.split_whitespace().next())
        {
            Some(hex) => {
                let bytes = (0..hex.len())
                    .step_by(2)
                    .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
                frames.last_mut().unwrap().extend(bytes);
            }
            None if !line.is_empty() => frames.push(Vec::new()),
            None => {}
        }
    }
    frames.retain(|frame| !frame.is_empty());
    let [hello, login, bound, send, deliver, ack, receipt] = &frames[..] else {
        panic!("{} frames", frames.len())
    };
    let mut world = World::new();
    let conn = world.connect();
    let mut say = |frame: &[u8]| {
        world.received.clear();
        world.hub.handle_frame(world.now, conn, frame);
        world.run();
        world.received.get(&conn).cloned().unwrap_or_default()
    };
    assert!(matches!(
        decode(&say(hello)).next(),
        Some(Ok(Message::Welcome(_)))
    ));
    assert_eq!(&say(login), bound);
    assert_eq!(&say(send), deliver);
    assert_eq!(&say(ack), receipt);
}

#[test]
fn a_link_without_hello_ends_whatever_it_says() {
    let mut world = World::new();
    let conn = world.connect();
    world.pass(2_900);
    assert!(world.closed.is_empty());
    world.pass(600);
    assert_eq!(world.closed.pop().map(|(conn, _)| conn), Some(conn));
    // An empty batch is a sign of life, and of nobody.
    let conn = world.connect();
    world.hub.handle_frame(world.now, conn, b"");
    world.run();
    let (closed, why) = world.closed.pop().unwrap();
    assert_eq!((closed, why.code), (conn, Some(ErrorCode::Malformed)));
}

#[test]
fn a_revoked_key_loses_its_links_and_no_other_does() {
    let allow = |key: u8, names: &str, roles: &[&str]| Allowed {
        key: [key; 32],
        names: names.into(),
        roles: roles.iter().map(ToString::to_string).collect(),
    };
    let mut world = World::new();
    let all = vec![
        allow(1, "game-*", &["echo"]),
        allow(2, "game-*", &[]),
        allow(3, "*", &[]),
    ];
    world.hub.set_allowed(world.now, all);
    let mut link = |name: &'static str, key: u8| {
        world.connections += 1;
        let conn = world.connections;
        let peer = Peer {
            key: Some([key; 32]),
            address: String::new(),
        };
        world.hub.handle_connected(world.now, conn, peer);
        let hello = Hello {
            version_min: 1,
            version_max: 1,
            node_key: node_key(name),
            epoch: 5,
            connection: conn,
            highest_hub_epoch: if key == 9 { 1_000 } else { 0 },
            low: 0,
            features: 0,
            name,
            roles: (&["echo"]).into(),
        };
        world.say_raw(conn, &Message::Hello(hello));
        conn
    };
    let (one, two, three) = (link("game-1", 1), link("game-2", 2), link("cli", 3));
    // A key of nobody is refused before it can say that another hub has taken over.
    let stranger = link("game-3", 9);
    assert!(world.exits.is_empty());
    let closed: Vec<_> = world.closed.drain(..).map(|(conn, _)| conn).collect();
    assert_eq!(closed, [stranger]);
    // Two keys for one name, then one less; another keeps its key and loses its role.
    let fewer = vec![allow(2, "game-*", &["other"]), allow(3, "*", &[])];
    world.hub.set_allowed(world.now, fewer);
    world.run();
    let closed: Vec<_> = world.closed.drain(..).collect();
    assert_eq!(
        closed
            .iter()
            .map(|(conn, why)| (*conn, why.code))
            .collect::<Vec<_>>(),
        [one, two].map(|conn| (conn, Some(ErrorCode::NotAllowed)))
    );
    assert!(world.closed.iter().all(|(conn, _)| *conn != three));
}
