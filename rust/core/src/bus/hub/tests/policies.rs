//! `latest` and `droppable` (BUS.md rule 33), outcome `passed`, and the stop of a hub.

use super::*;
use crate::bus::message::{POLICY_SEQ, Scope, features};

struct Policied<'a> {
    seq: u64,
    policy: Policy,
    target: Target<'a>,
    key: &'a str,
    quiet: bool,
}

/// Who asks for it gets every hop of it.
fn say_traced(world: &mut World, node: &Node, of: &Policied<'_>) {
    say_as(world, node, of, true);
}

fn say(world: &mut World, node: &Node, of: &Policied<'_>) {
    say_as(world, node, of, false);
}

fn say_as(world: &mut World, node: &Node, of: &Policied<'_>, trace: bool) {
    let payload = of.seq.to_le_bytes();
    let send = Send {
        seq: POLICY_SEQ | of.seq,
        low: 0,
        deadline_ms: 0,
        deliver_at_ms: 0,
        policy: of.policy,
        resend: false,
        quiet: of.quiet,
        trace,
        content: Content::Bytes,
        target: of.target,
        key: of.key,
        payload: &payload,
    };
    world.say(node, &Message::Send(send));
}

fn latest(world: &mut World, node: &Node, seq: u64, key: &str) {
    let (policy, target) = (Policy::Latest, Target::Player("p"));
    say(
        world,
        node,
        &Policied {
            seq,
            policy,
            target,
            key,
            quiet: false,
        },
    );
}

fn droppable(world: &mut World, node: &Node, seq: u64) {
    let (policy, target) = (Policy::Droppable, Target::Player("p"));
    say(
        world,
        node,
        &Policied {
            seq,
            policy,
            target,
            key: "",
            quiet: false,
        },
    );
}

/// What a node got: number and seq without bit 63; and receipts with theirs.
fn numbers(received: &Received) -> Vec<(u32, u64)> {
    let plain = |(_, number, seq): &(u64, u32, u64)| (*number, seq & !POLICY_SEQ);
    received.delivered.iter().map(plain).collect()
}

fn outcomes(received: &Received) -> Vec<(u64, Outcome)> {
    let plain = |(seq, outcome): &(u64, Outcome)| (seq & !POLICY_SEQ, *outcome);
    received.outcomes().iter().map(plain).collect()
}

#[test]
fn live_they_go_out_at_once_without_number_and_out_of_the_window() {
    let (mut world, sender, host) = known();
    world.login(&host, "p");
    world.send(&sender, 1, "p");
    droppable(&mut world, &sender, 1);
    latest(&mut world, &sender, 2, "k");
    world.send(&sender, 2, "p");
    assert_eq!(
        numbers(&world.take(&host)),
        [(1, 1), (0, 1), (0, 2), (2, 2)]
    );
    assert_eq!(
        outcomes(&world.take(&sender)),
        [(1, Outcome::Sent), (2, Outcome::Sent)]
    );
    assert!(world.store.is_empty());
}

#[test]
fn not_live_a_droppable_is_dropped_and_of_latest_the_newest_of_a_key_is_kept() {
    let (mut world, sender, host) = known();
    droppable(&mut world, &sender, 1);
    for (seq, key) in [(2, "hp"), (3, "gold"), (4, "hp")] {
        latest(&mut world, &sender, seq, key);
    }
    let dropped = world.take(&sender).receipts;
    let said: Vec<_> = dropped
        .iter()
        .map(|(seq, _, why)| (seq & !POLICY_SEQ, why.as_str()))
        .collect();
    assert_eq!(said, [(1, "not online"), (2, "replaced by a newer one")]);
    world.send(&sender, 1, "p");
    world.login(&host, "p");
    assert_eq!(
        numbers(&world.take(&host)),
        [(1, 1), (0, 3), (0, 4)],
        "behind the mailbox"
    );
    let last = outcomes(&world.take(&sender));
    assert_eq!(
        last,
        [(1, Outcome::Stored), (3, Outcome::Sent), (4, Outcome::Sent)]
    );
}

#[test]
fn nothing_overtakes_a_queue() {
    let (mut world, sender, host) = known();
    let (_, binding) = world.login(&host, "p");
    for seq in 1..=5 {
        world.send(&sender, seq, "p");
    }
    latest(&mut world, &sender, 1, "k");
    droppable(&mut world, &sender, 2);
    assert_eq!(outcomes(&world.take(&sender)), [(2, Outcome::Dropped)]);
    assert_eq!(world.take(&host).seqs(), [1, 2, 3, 4], "the window is four");
    world.ack(&host, binding, 4);
    assert_eq!(numbers(&world.take(&host)), [(5, 5), (0, 1)]);
}

/// A group send waits for the end of the hold, and with it all that its sender sends later.
fn held() -> (World, Node, Node) {
    let (mut world, _, host) = known();
    world.node("away", 1);
    let (login, _) = world.login(&host, "p");
    let mut world = world.restart();
    let (sender, host) = (world.hello("sender", 1), world.node("host", 1));
    world.register(&host, "p", login, true);
    world.take(&host);
    world.send_as(&sender, 1, Target::Broadcast(Scope::Players), false);
    latest(&mut world, &sender, 2, "k");
    droppable(&mut world, &sender, 3);
    assert!(world.take(&host).seqs().is_empty(), "p is live, yet behind");
    assert_eq!(outcomes(&world.take(&sender)), [(3, Outcome::Dropped)]);
    (world, sender, host)
}

#[test]
fn nothing_overtakes_what_waits_for_the_end_of_the_hold() {
    let (mut world, sender, host) = held();
    world.pass_with(&[&sender, &host], 4_000);
    assert_eq!(numbers(&world.take(&host)), [(1, 1), (0, 2)]);
}

#[test]
fn what_is_kept_behind_held_sends_is_lost_with_their_link() {
    let (mut world, sender, host) = held();
    world.drop_link(&sender);
    world.pass_with(&[&host], 4_000);
    assert!(world.take(&host).delivered.is_empty());
    assert!(!world.hub.kept.has(world.hub.players.find("p").unwrap()));
}

#[test]
fn a_slow_link_drops_droppable_first() {
    let config = HubConfig {
        link_bytes: 1_000,
        ..small(1)
    };
    let mut world = World::with(config, MemoryStore::default());
    let (sender, host) = (world.node("sender", 1), world.node("host", 1));
    world.login(&host, "p");
    world.take(&host);
    world.hub.set_writable(host.conn, false);
    let mut droppables = 0;
    for seq in 1..=20 {
        droppable(&mut world, &sender, seq);
        droppables = seq;
    }
    assert_eq!(droppables, 20);
    latest(&mut world, &sender, 21, "k");
    world.send(&sender, 1, "p");
    let dropped = world
        .take(&sender)
        .outcomes()
        .iter()
        .filter(|of| of.1 == Outcome::Dropped)
        .count();
    assert!((5..20).contains(&dropped), "{dropped}");
    world.hub.set_writable(host.conn, true);
    world.run();
    let got = numbers(&world.take(&host));
    assert!(got.contains(&(1, 1)), "must-deliver had room: {got:?}");
    assert_eq!(got.last(), Some(&(0, 21)), "{got:?}");
}

#[test]
fn a_group_gets_counts_and_no_names() {
    let (mut world, sender, host) = known();
    let claims = ["a", "b"].map(|player| Claim {
        player,
        login: 0,
        request: 1,
    });
    world.say(
        &host,
        &Message::Login {
            claims: (&claims).into(),
        },
    );
    let members = ["a", "b"].map(|player| crate::bus::message::Member {
        group: "team",
        player,
    });
    world.say(
        &host,
        &Message::Join {
            request: 0,
            durable: false,
            members: (&members).into(),
        },
    );
    world.take(&host);
    let (policy, target) = (Policy::Droppable, Target::Group("team"));
    say(
        &mut world,
        &sender,
        &Policied {
            seq: 1,
            policy,
            target,
            key: "",
            quiet: false,
        },
    );
    let got = world.take(&host);
    assert_eq!((got.delivers, got.delivered.len()), (1, 2), "one frame");
    assert_eq!(
        world.take(&sender).reports,
        [(POLICY_SEQ | 1, [0, 0, 0, 0, 0, 2, 0, 0], vec![])]
    );
    say(
        &mut world,
        &sender,
        &Policied {
            seq: 2,
            policy,
            target,
            key: "",
            quiet: true,
        },
    );
    assert_eq!(world.take(&sender), Received::default(), "quiet");
}

#[test]
fn a_node_without_the_feature_gets_no_number_0() {
    let (mut world, sender, _) = known();
    let old = world.hello_with("old", 1, 0);
    world.login(&old, "p");
    latest(&mut world, &sender, 1, "k");
    assert_eq!(outcomes(&world.take(&sender)), [(1, Outcome::Dropped)]);
    assert!(world.take(&old).seqs().is_empty());
}

#[test]
fn what_is_kept_ends_after_an_hour() {
    let (mut world, sender, host) = known();
    latest(&mut world, &sender, 1, "k");
    world.pass_with(&[&sender, &host], 3_601_000);
    assert_eq!(outcomes(&world.take(&sender)), [(1, Outcome::Expired)]);
}

/// With the last of them its record goes too.
#[test]
fn all_that_is_kept_for_a_name_that_nobody_has_ends_at_once() {
    let (mut world, sender, host) = known();
    for (seq, key) in [(1, "a"), (2, "b")] {
        let message = Policied {
            seq,
            policy: Policy::Latest,
            target: Target::Player("ghost"),
            key,
            quiet: false,
        };
        say(&mut world, &sender, &message);
    }
    world.pass_with(&[&sender, &host], 3_601_000);
    let ended = outcomes(&world.take(&sender));
    assert_eq!(ended, [(1, Outcome::Expired), (2, Outcome::Expired)]);
    assert!(world.hub.players.find("ghost").is_none());
}

/// A recipient that joined after the first transmission and has handled later messages of that sender: it is not told
/// to have this one.
#[test]
fn late_joiner_of_a_group_resend_is_passed() {
    let (mut world, sender, host) = known();
    let (_, binding) = world.login(&host, "p");
    let members = [crate::bus::message::Member {
        group: "team",
        player: "p",
    }];
    world.say(
        &host,
        &Message::Join {
            request: 0,
            durable: false,
            members: (&members).into(),
        },
    );
    world.take(&host);
    world.send_as(&sender, 1, Target::Group("team"), true);
    assert_eq!(world.take(&host).seqs(), [1]);
    let deliveries = [Number { binding, number: 1 }];
    world.say(
        &host,
        &Message::Seen {
            deliveries: (&deliveries).into(),
        },
    );
    world.ack(&host, binding, 1);
    let reports = world.take(&sender).reports;
    assert_eq!(reports[0].2, [("p".to_string(), Outcome::Passed)]);
    // A message of its own, and a group send that came for the first time, are `delivered`.
    world.resend(&sender, 2, "p");
    let deliveries = [Number { binding, number: 2 }];
    world.say(
        &host,
        &Message::Seen {
            deliveries: (&deliveries).into(),
        },
    );
    world.ack(&host, binding, 2);
    assert_eq!(world.take(&sender).outcomes(), [(2, Outcome::Delivered)]);
}

#[test]
fn a_group_resend_that_the_mailbox_has_passed_is_not_stored() {
    let (mut world, sender, host) = known();
    world.send(&sender, 5, "p");
    let (login, binding) = world.login(&host, "p");
    world.ack(&host, binding, 1);
    world.logout(&host, "p", login, &[sender.id(5)]);
    let members = [crate::bus::message::Member {
        group: "guild",
        player: "p",
    }];
    world.say(
        &sender,
        &Message::Join {
            request: 0,
            durable: true,
            members: (&members).into(),
        },
    );
    world.take(&sender);
    world.send_as(&sender, 3, Target::Group("guild"), true);
    assert_eq!(
        world.take(&sender).reports[0].2,
        [("p".to_string(), Outcome::Passed)]
    );
    world.send_as(&sender, 6, Target::Group("guild"), true);
    assert_eq!(
        world.take(&sender).reports[0].2,
        [("p".to_string(), Outcome::Stored)]
    );
    world.send_as(&sender, 6, Target::Group("guild"), true);
    assert_eq!(
        world.take(&sender).reports[0].2,
        [("p".to_string(), Outcome::Stored)],
        "its row is there"
    );
}

#[test]
fn a_hub_that_stops_confirms_what_it_took_and_says_so() {
    let (mut world, sender, host) = known();
    world.auto = false;
    world.send(&sender, 1, "p");
    world.hub.handle_stop();
    world.send(&sender, 2, "p");
    let late = world.hello("late", 1);
    assert_eq!(world.take(&late).error, Some(ErrorCode::Stopping));
    world.commit();
    world.run();
    assert_eq!(
        world.take(&sender).outcomes(),
        [(1, Outcome::Stored)],
        "2 is for the next hub"
    );
    world.hub.say_stop(world.now);
    world.run();
    assert_eq!(world.take(&sender).error, Some(ErrorCode::Stopping));
    assert_eq!(world.take(&host).error, Some(ErrorCode::Stopping));
    assert_eq!(features::ALL, 31);
}

#[test]
fn who_asks_for_a_trace_gets_every_hop_with_or_without_a_receipt() {
    use crate::bus::hub::trace::HopKind::{Accepted, Dropped, Sent};
    let (mut world, sender, host) = known();
    world.login(&host, "p");
    let of = |seq, policy, player, quiet| Policied {
        seq,
        policy,
        target: Target::Player(player),
        key: "k",
        quiet,
    };
    world.hub.take_hops(100, 0);
    say_traced(&mut world, &sender, &of(1, Policy::Latest, "p", false));
    say_traced(&mut world, &sender, &of(2, Policy::Droppable, "p", true));
    say_traced(
        &mut world,
        &sender,
        &of(3, Policy::Droppable, "away", false),
    );
    say_traced(&mut world, &sender, &of(4, Policy::Latest, "away", true));
    say_traced(&mut world, &sender, &of(5, Policy::Latest, "away", true));
    let hops = world.hub.take_hops(100, 0).into_iter();
    let hops: Vec<_> = hops
        .map(|hop| (hop.id.seq & !POLICY_SEQ, hop.kind, hop.detail.into_owned()))
        .collect();
    let hops: Vec<_> = hops
        .iter()
        .map(|(seq, kind, detail)| (*seq, *kind, detail.as_str()))
        .collect();
    let expected = [
        (1, Accepted, ""),
        (1, Sent, ""),
        (2, Accepted, ""),
        (2, Sent, ""),
        (3, Accepted, ""),
        (3, Dropped, "not online"),
        (4, Accepted, ""),
        (5, Accepted, ""),
        (4, Dropped, "replaced by a newer one"),
    ];
    assert_eq!(hops, expected);
    let delivered = world.take(&host).delivered.len();
    assert_eq!(delivered, 2);
}
