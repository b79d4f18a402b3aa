//! Group sends, broadcasts, membership, presence.

use super::*;
use crate::bus::message::{Member, Scope};
use Outcome::{Delivered, Refused, Stored};

fn join(world: &mut World, node: &Node, group: &str, player: &str, durable: bool) -> bool {
    let members = [Member { group, player }];
    world.say(
        node,
        &Message::Join {
            request: 77,
            durable,
            members: (&members).into(),
        },
    );
    let others = world.take(node).others;
    others
        .iter()
        .any(|other| other.starts_with("Joined { request: 77, ok: true"))
}

/// Three members on two nodes, the third durable and offline.
fn team() -> (World, Node, Node, Node) {
    let mut world = World::new();
    let (sender, first, second) = (
        world.node("sender", 1),
        world.node("first", 1),
        world.node("second", 1),
    );
    world.login(&first, "a");
    world.login(&second, "b");
    let (login, _) = world.login(&second, "c");
    assert!(join(&mut world, &first, "team", "a", false));
    assert!(join(&mut world, &second, "team", "b", false));
    assert!(join(&mut world, &first, "team", "c", true));
    world.logout(&second, "c", login, &[]);
    world.take(&second);
    world.take(&first);
    (world, sender, first, second)
}

#[test]
fn a_report_names_every_recipient() {
    let (mut world, sender, first, second) = team();
    world.send_as(&sender, 1, Target::Group("team"), false);
    let (a, b) = (
        world.take(&first).delivered[0],
        world.take(&second).delivered[0],
    );
    world.ack(&first, a.0, 1);
    assert_eq!(world.take(&sender).reports, vec![]);
    world.ack(&second, b.0, 1);
    let reports = world.take(&sender).reports;
    let expected = [("a", Delivered), ("b", Delivered), ("c", Stored)];
    assert_eq!(reports[0].0, 1);
    assert_eq!(reports[0].1, [2, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        reports[0].2,
        expected.map(|(name, outcome)| (name.to_string(), outcome))
    );
}

#[test]
fn one_deliver_goes_to_each_node() {
    let mut world = World::new();
    let (sender, host) = (world.node("sender", 1), world.node("host", 1));
    for player in ["a", "b", "c"] {
        world.login(&host, player);
        assert!(join(&mut world, &host, "team", player, false));
    }
    world.send_as(&sender, 1, Target::Group("team"), false);
    let received = world.take(&host);
    assert_eq!((received.delivers, received.delivered.len()), (1, 3));
}

#[test]
fn unknown_group_is_refused() {
    let (mut world, sender, first, _) = team();
    world.send_as(&sender, 1, Target::Group("teem"), false);
    assert_eq!(
        world.take(&sender).receipts,
        vec![(1, Refused, "unknown group".to_string())]
    );
    assert!(
        !join(&mut world, &first, "team", "nobody", true),
        "durable, but never logged in"
    );
    assert!(
        !join(&mut world, &first, "team", "b", false),
        "hosted elsewhere"
    );
}

#[test]
fn plain_membership_ends_with_the_login_and_durable_outlives_the_hub() {
    let (mut world, sender, first, second) = team();
    world.login(&second, "a");
    world.take(&second);
    world.send_as(&sender, 1, Target::Group("team"), false);
    assert_eq!(world.take(&second).seqs(), vec![1], "b; a has a new login");
    let mut world = world.restart();
    let (sender, first, second) = (
        world.node("sender", 1),
        world.node(first.name, 1),
        world.node(second.name, 1),
    );
    world.take(&second);
    world.send_as(&sender, 2, Target::Group("team"), false);
    assert_eq!(
        world.take(&sender).reports[0].2,
        vec![("c".to_string(), Stored)]
    );
    world.say(
        &first,
        &Message::Leave {
            request: 1,
            durable: true,
            members: (&[Member {
                group: "team",
                player: "c",
            }])
                .into(),
        },
    );
    world.send_as(&sender, 3, Target::Group("team"), false);
    assert_eq!(world.take(&sender).outcomes(), vec![(3, Refused)]);
}

#[test]
fn group_resend_after_half_the_acks() {
    let (mut world, sender, first, second) = team();
    let (a, b) = (
        world
            .hub
            .players
            .get(world.hub.players.find("a").unwrap())
            .login,
        0,
    );
    assert_eq!(b, 0);
    world.send_as(&sender, 1, Target::Group("team"), false);
    let delivered = world.take(&first).delivered[0];
    world.ack(&first, delivered.0, 1);
    let login_b = world
        .hub
        .players
        .get(world.hub.players.find("b").unwrap())
        .login;
    let mut world = world.restart();
    let (sender, first, second) = (
        world.node("sender", 1),
        world.hello(first.name, 1),
        world.hello(second.name, 1),
    );
    world.register(&first, "a", a, false);
    assert!(join(&mut world, &first, "team", "a", false));
    world.send_as(&sender, 1, Target::Group("team"), true);
    assert_eq!(
        world.take(&first).seqs(),
        vec![],
        "membership is not whole before all are back"
    );
    world.register(&second, "b", login_b, false);
    assert!(join(&mut world, &second, "team", "b", false));
    world.say(
        &first,
        &Message::Register {
            claims: (&[]).into(),
            last: true,
        },
    );
    world.say(
        &second,
        &Message::Register {
            claims: (&[]).into(),
            last: true,
        },
    );
    let (a, b) = (
        world.take(&first).delivered[0],
        world.take(&second).delivered[0],
    );
    world.ack(&first, a.0, a.1);
    world.ack(&second, b.0, b.1);
    assert_eq!(world.take(&sender).reports[0].1, [2, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(world.store.rows("c").len(), 1);
}

#[test]
fn order_holds_across_unicast_and_group_while_the_hub_holds() {
    let (world, ..) = team();
    let login = world
        .hub
        .players
        .get(world.hub.players.find("a").unwrap())
        .login;
    let mut world = world.restart();
    let (sender, first) = (world.node("sender", 1), world.hello("first", 1));
    world.register(&first, "a", login, false);
    assert!(join(&mut world, &first, "team", "a", false));
    world.send(&sender, 1, "a");
    world.send_as(&sender, 2, Target::Group("team"), false);
    world.send(&sender, 3, "a");
    world.say(
        &first,
        &Message::Register {
            claims: (&[]).into(),
            last: true,
        },
    );
    world.node("second", 1);
    let mut seqs = world.take(&first).seqs();
    seqs.dedup();
    assert_eq!(seqs, vec![1, 2, 3]);
}

#[test]
fn a_group_send_waits_for_the_groups_of_a_store_that_is_away() {
    let (mut world, ..) = team();
    let mut config = world.hub.config;
    config.hub_epoch += 1;
    world.auto = false;
    world.hub = Hub::new(config, world.now);
    let sender = world.node("sender", 1);
    let grace_ms = world.hub.config.hub_grace_ms;
    world.pass_with(&[&sender], grace_ms);
    world.send_as(&sender, 1, Target::Group("team"), false);
    world.send(&sender, 2, "c");
    let received = world.take(&sender);
    assert!(received.receipts.is_empty() && received.reports.is_empty());
    world.auto = true;
    world.run();
    let received = world.take(&sender);
    assert_eq!(received.reports[0].2, vec![("c".to_string(), Stored)]);
    assert_eq!(received.outcomes(), vec![(2, Stored)]);
}

#[test]
fn broadcast_goes_to_those_online_and_counts() {
    let (mut world, sender, first, second) = team();
    world.login(&first, "node:first");
    world.take(&first);
    world.send_as(&sender, 1, Target::Broadcast(Scope::Players), false);
    let (a, b) = (world.take(&first).delivered, world.take(&second).delivered);
    assert_eq!((a.len(), b.len()), (1, 1));
    world.ack(&first, a[0].0, 1);
    world.ack(&second, b[0].0, 1);
    let reports = world.take(&sender).reports;
    assert_eq!(
        (reports[0].1[0], reports[0].2.len()),
        (2, 0),
        "delivered ones are counted, not named"
    );
    world.send_as(&sender, 2, Target::Broadcast(Scope::Nodes), false);
    assert_eq!(
        (world.take(&first).seqs(), world.take(&second).seqs()),
        (vec![2], vec![])
    );
}

#[test]
fn presence_is_a_snapshot_then_changes() {
    let (mut world, sender, first, _) = team();
    world.take(&sender);
    world.say(&sender, &Message::Subscribe { topics: 1 });
    let others = world.take(&sender).others;
    assert_eq!(others.len(), 3, "{others:?}");
    assert_eq!(others[0].matches("NodeUp").count(), 3);
    assert_eq!(others[1].matches("event: Login").count(), 2);
    assert!(others[2].contains("snapshot: true, events: []"));
    let (login, _) = world.login(&first, "d");
    world.logout(&first, "d", login, &[]);
    world.say(&first, &Message::Bye { low: 1 });
    let others = world.take(&sender).others;
    assert_eq!(others.len(), 4, "{others:?}");
    assert!(others[0].contains(r#"Login, name: "d", node: "first""#));
    assert!(others[1].contains(r#"Logout, name: "d""#));
    assert!(others[2].contains(r#"Logout, name: "a""#));
    assert!(others[3].contains(r#"NodeDown, name: "first""#));
}
