//! What observers are told: each message once, with its time, by its outcome; hops of those that are traced.

use super::*;
use crate::bus::hub::trace::{Hop, HopKind, hash, is_sampled};

/// The first seq of `sender` from `from` on that is sampled, or is not.
fn seq(sender: &Node, from: u64, sampled: bool) -> u64 {
    (from..)
        .find(|seq| is_sampled(sender.id(*seq)) == sampled)
        .unwrap_or_default()
}

fn kinds(world: &mut World) -> Vec<(HopKind, u64, String)> {
    let hops = world.hub.take_hops(100, 10_000_000).into_iter();
    hops.map(|hop| (hop.kind, hop.id.seq, hop.node.to_string()))
        .collect()
}

#[test]
fn a_stored_message_has_every_hop_and_counts_once() {
    let mut world = World::new();
    let (sender, host) = (world.node("sender", 1), world.node("host", 1));
    let (login, _) = world.login(&host, "p");
    world.logout(&host, "p", login, &[]);
    let at = seq(&sender, 1, false);
    world.send(&sender, at, "p");
    world.pass(20);
    let (_, binding) = world.login(&host, "p");
    world.ack(&host, binding, 1);
    let expected = [
        (HopKind::Stored, at, String::new()),
        (HopKind::Sent, at, "host".into()),
        (HopKind::Acked, at, "host".into()),
    ];
    assert_eq!(kinds(&mut world), expected);
    let sums = world.hub.take_sums(100, true);
    let expected = [("stored", ""), ("taken", "host")];
    assert_eq!(
        sums.iter()
            .map(|sum| (sum.outcome, &*sum.host))
            .collect::<Vec<_>>(),
        expected
    );
    for sum in &sums {
        assert_eq!((&*sum.sender, sum.messages), ("sender", 1));
        assert_eq!(sum.id_sum, hash(sender.id(at)));
    }
}

/// A send that is delivered later, and is traced.
fn later(world: &mut World, node: &Node, seq: u64, deliver_at_ms: u64) {
    let send = Send {
        seq,
        low: 0,
        deadline_ms: 0,
        deliver_at_ms,
        policy: Policy::MustDeliver,
        resend: false,
        quiet: false,
        trace: true,
        content: Content::Bytes,
        target: Target::Player("p"),
        key: "",
        payload: b"later",
    };
    world.say(node, &Message::Send(send));
}

#[test]
fn a_deferred_message_is_followed_to_its_end() {
    let config = HubConfig {
        unix_ms: 1_000_000,
        ..small(1)
    };
    let mut world = World::with(config, MemoryStore::default());
    let (sender, host) = world.known();
    let at = seq(&sender, 1, false);
    later(&mut world, &sender, at, 1_005_000);
    let (_, binding) = world.login(&host, "p");
    world.pass_with(&[&sender, &host], 7_000);
    world.ack(&host, binding, 1);
    let hops = world.hub.take_hops(100, 0);
    let (first, then): (Vec<_>, Vec<_>) = hops.iter().partition(|hop| hop.id == sender.id(at));
    let kinds = |hops: &[&Hop]| hops.iter().map(|hop| hop.kind).collect::<Vec<_>>();
    let expected = [HopKind::Accepted, HopKind::Stored, HopKind::Due];
    assert_eq!(kinds(&first), expected);
    assert_eq!(kinds(&then), [HopKind::Sent, HopKind::Acked]);
    for hop in then {
        let (key, epoch, seq) = (hop.id.node_key, hop.id.epoch, hop.id.seq);
        assert_eq!(first[2].detail, format!("0x{key:016x}/{epoch}/{seq}"));
    }
}

#[test]
fn of_live_messages_one_in_a_thousand_leaves_hops() {
    let mut world = World::new();
    let (sender, host) = (world.node("sender", 1), world.node("host", 1));
    let (_, binding) = world.login(&host, "p");
    let sampled = seq(&sender, 1, true);
    for (number, at) in (1u32..).zip([sampled - 1, sampled]) {
        world.hub.set_clock_us(5_000_000);
        world.send(&sender, at, "p");
        world.hub.set_clock_us(5_000_150);
        world.ack(&host, binding, number);
    }
    let expected = [HopKind::Accepted, HopKind::Sent, HopKind::Acked].map(|kind| (kind, sampled));
    let hops = kinds(&mut world).into_iter();
    assert_eq!(hops.map(|hop| (hop.0, hop.1)).collect::<Vec<_>>(), expected);
    let sums = world.hub.take_sums(100, true);
    let both = hash(sender.id(sampled - 1)).wrapping_add(hash(sender.id(sampled)));
    assert_eq!(
        (sums[0].messages, sums[0].id_sum, &*sums[0].host),
        (2, both, "host")
    );
    let metrics = world.hub.metrics_json();
    assert!(
        metrics.contains(r#""latency":{"delivered":{"counts":[0,0,0,2,"#),
        "{metrics}"
    );
    assert!(metrics.contains(r#""send":{"messages":2,"#), "{metrics}");
}

#[test]
fn a_receipt_that_was_lost_counts_no_second_time() {
    let mut world = World::new();
    let (sender, host) = (world.node("sender", 1), world.node("host", 1));
    let (login, _) = world.login(&host, "p");
    world.logout(&host, "p", login, &[]);
    world.send(&sender, 1, "p");
    world.resend(&sender, 1, "p");
    let outcomes = world.take(&sender).outcomes();
    assert_eq!(outcomes, vec![(1, Outcome::Stored), (1, Outcome::Stored)]);
    let sums = world.hub.take_sums(100, true);
    assert_eq!(sums.iter().map(|sum| sum.messages).sum::<u64>(), 1);
}

#[test]
fn status_says_what_the_process_says() {
    let mut world = World::new();
    world.hub.set_note(r#"{"trouble":"disk"}"#.into());
    assert!(
        world
            .hub
            .status_json()
            .ends_with(r#","process":{"trouble":"disk"}}"#)
    );
}
