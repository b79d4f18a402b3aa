//! What is stored, when it is said, and in which order it comes back.

use super::*;
use Outcome::{Busy, Delivered, Refused, Stored};

#[test]
fn a_live_message_is_delivered_only_after_the_ack() {
    let (mut world, sender, host) = known();
    let (_, binding) = world.login(&host, "p");
    world.send(&sender, 1, "p");
    assert_eq!(world.take(&host).delivered, vec![(binding, 1, 1)]);
    assert_eq!(world.take(&sender).receipts, vec![]);
    world.ack(&host, binding, 1);
    assert_eq!(world.take(&sender).outcomes(), vec![(1, Delivered)]);
    assert!(world.store.is_empty());
}

#[test]
fn unknown_player_is_refused() {
    let mut world = World::new();
    let sender = world.node("sender", 1);
    world.send(&sender, 1, "nobody");
    let receipts = world.take(&sender).receipts;
    assert_eq!(receipts, vec![(1, Refused, "unknown player".to_string())]);
    assert!(world.store.is_empty());
    assert_eq!(world.hub.players.len(), 0, "a typo leaves nothing behind");
}

#[test]
fn unknown_player_is_refused_also_by_a_hub_that_has_just_started() {
    let (world, ..) = known();
    let mut next = world.restart();
    let sender = next.node("sender", 2);
    next.send(&sender, 1, "nobody");
    next.send(&sender, 2, "nobody");
    assert_eq!(next.take(&sender).receipts, vec![], "it waits for the host");
    next.pass_with(&[&sender], 3_500);
    let receipts = next.take(&sender).receipts;
    let refused = |seq| (seq, Refused, "unknown player".to_string());
    assert_eq!(receipts, vec![refused(1), refused(2)]);
}

#[test]
fn stored_only_after_commit() {
    let (mut world, sender, host) = known();
    world.auto = false;
    world.send(&sender, 1, "p");
    world.issue().expect("an append");
    world.run();
    assert_eq!(world.take(&sender).receipts, vec![]);
    world.fail(false);
    assert_eq!(world.take(&sender).receipts, vec![]);
    world.pass(60);
    world.fail(true);
    assert_eq!(
        world.take(&sender).receipts,
        vec![],
        "nobody knows whether it was committed"
    );
    world.pass(200);
    world.commit();
    world.run();
    assert_eq!(world.take(&sender).outcomes(), vec![(1, Stored)]);
    assert_eq!(
        world.store.rows("p").len(),
        1,
        "the repeated append inserted nothing"
    );
    world.auto = true;
    world.login(&host, "p");
    assert_eq!(world.take(&host).seqs(), vec![1]);
}

#[test]
fn live_waits_for_mailbox() {
    let (mut world, sender, host) = known();
    world.send(&sender, 1, "p");
    world.auto = false;
    world.login(&host, "p");
    world.send(&sender, 2, "p");
    assert_eq!(world.take(&host).seqs(), vec![]);
    world.auto = true;
    world.run();
    assert_eq!(world.take(&host).seqs(), vec![1, 2]);
}

#[test]
fn append_behind_login_read() {
    let (mut world, sender, host) = known();
    world.auto = false;
    world.send(&sender, 1, "p");
    world.issue().expect("the append is under way");
    world.login(&host, "p");
    world.send(&sender, 2, "p");
    world.auto = true;
    world.run();
    assert_eq!(world.take(&host).seqs(), vec![1, 2]);
    assert_eq!(world.take(&sender).outcomes(), vec![(1, Stored)]);
}

#[test]
fn spill_takes_the_whole_queue() {
    let (mut world, sender, host) = known();
    let (_, binding) = world.login(&host, "p");
    for seq in 1..=12 {
        world.send(&sender, seq, "p");
    }
    let stored: Vec<u64> = world.take(&sender).receipts.iter().map(|r| r.0).collect();
    let first = world.take(&host).delivered;
    assert_eq!(
        first.iter().map(|d| d.2).collect::<Vec<_>>(),
        vec![1, 2, 3, 4]
    );
    assert_eq!(
        stored[..5],
        [1, 2, 3, 4, 5],
        "what is in flight is stored before what waits"
    );
    // The host acks; the rows of what was in flight come again, for the cursor to drop.
    let mut seen: Vec<u64> = Vec::new();
    let mut up_to = 4;
    while seen.last() != Some(&12) {
        world.ack(&host, binding, up_to);
        let next = world.take(&host).delivered;
        assert!(!next.is_empty(), "it goes on after {seen:?}");
        up_to = next.last().unwrap().1;
        seen.extend(next.iter().map(|d| d.2));
    }
    seen.dedup();
    assert_eq!(seen, (1..=12).collect::<Vec<_>>());
    world.ack(&host, binding, up_to);
    assert!(world.store.is_empty());
}

#[test]
fn row_settled_only_after_ack() {
    let (mut world, sender, first) = known();
    let second = world.node("second", 1);
    for seq in 1..=3 {
        world.send(&sender, seq, "p");
    }
    world.login(&first, "p");
    assert_eq!(world.take(&first).seqs(), vec![1, 2, 3]);
    assert_eq!(world.store.rows("p").len(), 3, "rows are read, never taken");
    let (_, binding) = world.login(&second, "p");
    assert_eq!(world.take(&second).seqs(), vec![1, 2, 3]);
    world.ack(&second, binding, 2);
    assert_eq!(world.store.rows("p").len(), 1);
    world.ack(&second, binding, 3);
    assert!(world.store.is_empty());
}

#[test]
fn row_numbers_are_not_reused() {
    let (mut world, sender, host) = known();
    world.send(&sender, 1, "p");
    let (_, binding) = world.login(&host, "p");
    world.auto = false;
    world.ack(&host, binding, 1);
    world.fail(true); // The settle was committed, and will be repeated.
    world.drop_link(&host);
    world.auto = true;
    world.pass(6_000);
    let sender = world.hello("sender", 1);
    world.resend(&sender, 2, "p");
    assert_eq!(world.store.rows("p").len(), 1);
    let host = world.node("host", 1);
    world.login(&host, "p");
    assert_eq!(world.take(&host).seqs(), vec![2]);
}

#[test]
fn logout_carries_cursor() {
    let (mut world, sender, host) = known();
    let (login, binding) = world.login(&host, "p");
    world.send(&sender, 1, "p");
    world.ack(&host, binding, 1);
    world.received.clear(); // The receipt is lost with the link.
    world.drop_link(&sender);
    world.logout(&host, "p", login, &[sender.id(1)]);
    assert_eq!(world.take(&host).logged_out, vec![("p".to_string(), login)]);
    let sender = world.hello("sender", 1);
    world.resend(&sender, 1, "p");
    assert_eq!(world.take(&sender).outcomes(), vec![(1, Stored)]);
    world.login(&host, "p");
    assert_eq!(
        world.take(&host).seqs(),
        vec![],
        "the next session does not see it"
    );
    world.resend(&sender, 1, "p");
    assert_eq!(
        world.take(&sender).outcomes(),
        vec![(1, Stored)],
        "nor live"
    );
    assert_eq!(world.take(&host).seqs(), vec![]);
}

#[test]
fn logout_with_messages_in_flight() {
    let (mut world, sender, host) = known();
    let (login, _) = world.login(&host, "p");
    for seq in 1..=3 {
        world.send(&sender, seq, "p");
    }
    world.logout(&host, "p", login, &[sender.id(2)]);
    let mut outcomes = world.take(&sender).outcomes();
    outcomes.sort_unstable();
    assert_eq!(outcomes, vec![(1, Delivered), (2, Delivered), (3, Stored)]);
    world.take(&host);
    world.login(&host, "p");
    assert_eq!(world.take(&host).seqs(), vec![3]);
}

#[test]
fn logout_done_waits_for_store() {
    let (mut world, sender, host) = known();
    let (login, binding) = world.login(&host, "p");
    world.send(&sender, 1, "p");
    world.ack(&host, binding, 1);
    world.take(&host);
    world.auto = false;
    world.logout(&host, "p", login, &[sender.id(1)]);
    world.issue().expect("the logout");
    world.run();
    assert_eq!(world.take(&host).logged_out, vec![]);
    let mut world = world.restart(); // Killed before the commit.
    let host = world.hello("host", 1);
    world.logout(&host, "p", login, &[sender.id(1)]);
    assert_eq!(world.take(&host).logged_out, vec![("p".to_string(), login)]);
    let sender = world.node("sender", 1);
    world.resend(&sender, 1, "p");
    world.pass_with(&[&host, &sender], 3_500);
    let outcomes = world.take(&sender).outcomes();
    assert_eq!(outcomes, vec![(1, Stored)]);
    world.login(&host, "p");
    assert_eq!(world.take(&host).seqs(), vec![]);
}

#[test]
fn logout_with_nothing_to_write_is_answered_at_once() {
    let (mut world, sender, host) = known();
    let (login, binding) = world.login(&host, "p");
    world.send(&sender, 1, "p");
    world.ack(&host, binding, 1);
    world.say(&sender, &Message::Ping { nonce: 1, low: 2 });
    world.auto = false;
    world.take(&host);
    world.logout(&host, "p", login, &[sender.id(1)]);
    assert_eq!(world.take(&host).logged_out.len(), 1);
    assert_eq!(world.issue(), None);
}

#[test]
fn accepted_mark_waits_for_low() {
    let (mut world, sender, host) = known();
    world.send(&sender, 1, "p");
    let (login, binding) = world.login(&host, "p");
    world.ack(&host, binding, 1);
    world.logout(&host, "p", login, &[sender.id(1)]);
    world.take(&sender);
    let (login, _) = world.login(&host, "p"); // Goes live: would trim, if it could.
    assert_eq!(world.store.mailboxes["p"].accepted.len(), 1);
    world.logout(&host, "p", login, &[]);
    world.resend(&sender, 1, "p");
    assert_eq!(world.take(&sender).outcomes(), vec![(1, Stored)]);
    assert!(world.store.is_empty(), "the resend inserted nothing");
    world.say(&sender, &Message::Ping { nonce: 1, low: 2 });
    world.login(&host, "p");
    assert_eq!(
        world.store.mailboxes["p"].accepted.len(),
        0,
        "now it may go"
    );
}

#[test]
fn slow_store_holds_no_live_player() {
    let mut config = small(1);
    config.store_bytes = 64;
    let mut world = World::with(config, MemoryStore::default());
    let (sender, host) = (world.node("sender", 1), world.node("host", 1));
    let (_, live) = world.login(&host, "live");
    let (login, _) = world.login(&host, "away");
    world.logout(&host, "away", login, &[]);
    world.take(&host);
    world.auto = false;
    for seq in 1..=20 {
        world.send(&sender, seq, if seq % 2 == 0 { "live" } else { "away" });
        world.ack(&host, live, (seq / 2) as u32);
    }
    let outcomes = world.take(&sender).outcomes();
    let delivered: Vec<u64> = outcomes
        .iter()
        .filter(|o| o.1 == Delivered)
        .map(|o| o.0)
        .collect();
    let busy: Vec<u64> = outcomes
        .iter()
        .filter(|o| o.1 == Busy)
        .map(|o| o.0)
        .collect();
    assert_eq!(delivered, (1..=10).map(|n| n * 2).collect::<Vec<_>>());
    assert_eq!(busy, vec![17, 19], "eight of eight bytes fit");
    world.auto = true;
    world.run();
    world.send(&sender, 21, "away");
    assert_eq!(
        world.take(&sender).outcomes().last(),
        Some(&(21, Busy)),
        "behind the first busy one"
    );
    for seq in [17, 19, 21] {
        world.resend(&sender, seq, "away");
    }
    let (_, binding) = world.login(&host, "away");
    let mut seen = Vec::new();
    loop {
        let next = world.take(&host).delivered;
        let Some(last) = next.iter().rfind(|d| d.0 == binding).copied() else {
            break;
        };
        seen.extend(next.iter().filter(|d| d.0 == binding).map(|d| d.2));
        world.ack(&host, binding, last.1);
    }
    assert_eq!(seen, (0..=10).map(|n| 2 * n + 1).collect::<Vec<_>>());
}

#[test]
fn a_full_store_refuses_what_is_new() {
    let (mut world, sender, _) = known();
    world.store.limit_bytes = 8;
    world.send(&sender, 1, "p");
    world.send(&sender, 2, "p");
    assert_eq!(
        world.take(&sender).outcomes(),
        vec![(1, Stored), (2, Refused)]
    );
}
