//! Deadlines, deferred messages, quota: BUS.md rules 34, 35, 37.

use super::*;
use crate::bus::store::DEFERRED_KEY;

/// Unix ms at the start of a world: its hub was made at 1,000.
const UNIX: u64 = 1_800_000_000_000;

fn world() -> World {
    world_on(MemoryStore::default())
}

fn world_on(store: MemoryStore) -> World {
    let config = HubConfig {
        unix_ms: UNIX,
        player_messages: 3,
        ..small(1)
    };
    World::with(config, store)
}

fn send(
    world: &mut World,
    node: &Node,
    seq: u64,
    deadline_ms: u64,
    deliver_at_ms: u64,
    resend: bool,
) {
    let payload = seq.to_le_bytes();
    let send = Send {
        seq,
        low: 0,
        deadline_ms,
        deliver_at_ms,
        policy: Policy::MustDeliver,
        resend,
        quiet: false,
        trace: false,
        content: Content::Bytes,
        target: Target::Player("p"),
        key: "",
        payload: &payload,
    };
    world.say(node, &Message::Send(send));
}

#[test]
fn what_comes_past_its_deadline_is_expired() {
    let mut world = world();
    let (sender, _) = world.known();
    send(&mut world, &sender, 1, UNIX - 1, 0, false);
    assert_eq!(world.take(&sender).outcomes(), [(1, Outcome::Expired)]);
    assert!(world.store.is_empty());
}

#[test]
fn a_queued_message_expires_by_time_and_the_later_ones_go_on() {
    let mut world = world();
    let (sender, host) = world.known();
    let (_, binding) = world.login(&host, "p");
    for seq in 1..=5 {
        let deadline = if seq == 5 { UNIX + 1_000 } else { 0 };
        send(&mut world, &sender, seq, deadline, 0, false);
    }
    assert_eq!(world.take(&host).seqs(), [1, 2, 3, 4], "the window is four");
    world.pass_with(&[&sender, &host], 2_000);
    assert_eq!(world.take(&sender).outcomes(), [(5, Outcome::Expired)]);
    send(&mut world, &sender, 6, UNIX + 60_000, 0, false);
    world.ack(&host, binding, 4);
    assert_eq!(world.take(&host).seqs(), [6]);
}

#[test]
fn an_expired_row_is_passed_over_and_settled_with_its_neighbours() {
    let mut world = world();
    let (sender, host) = world.known();
    send(&mut world, &sender, 1, 0, 0, false);
    send(&mut world, &sender, 2, UNIX + 1_000, 0, false);
    send(&mut world, &sender, 3, UNIX + 1_000, 0, false);
    assert_eq!(world.take(&sender).outcomes().len(), 3);
    world.pass_with(&[&sender, &host], 2_000);
    let (_, binding) = world.login(&host, "p");
    assert_eq!(world.take(&host).seqs(), [1]);
    world.ack(&host, binding, 1);
    assert!(world.store.is_empty(), "{:?}", world.store.rows("p"));
    send(&mut world, &sender, 4, 0, 0, false);
    assert_eq!(world.take(&host).seqs(), [4]);
}

#[test]
fn a_mailbox_of_expired_rows_only_is_emptied_at_login() {
    let mut world = world();
    let (sender, host) = world.known();
    send(&mut world, &sender, 1, UNIX + 1_000, 0, false);
    world.pass_with(&[&sender, &host], 2_000);
    world.login(&host, "p");
    assert!(world.store.is_empty() && world.take(&host).seqs().is_empty());
}

#[test]
fn rows_that_nobody_reads_are_deleted_after_their_deadline() {
    let mut world = world();
    let (sender, host) = world.known();
    send(&mut world, &sender, 1, UNIX + 1_000, 0, false);
    send(&mut world, &sender, 2, 0, 0, false);
    world.pass_with(&[&sender, &host], 15_000);
    assert_eq!(world.store.rows("p").len(), 1);
    let month = UNIX + 31 * 86_400_000;
    world.hub.handle_clock(world.now, month);
    world.pass_with(&[&sender, &host], 15_000);
    assert_eq!(
        world.store.rows("p").len(),
        1,
        "a clock that has just jumped deletes nothing"
    );
    world.pass_with(&[&sender, &host], 600_000);
    assert!(world.store.is_empty(), "kept for 30 days");
}

#[test]
fn a_login_right_after_a_jump_of_the_clock_gets_what_was_not_late_before() {
    let mut world = world();
    let (sender, host) = world.known();
    send(&mut world, &sender, 1, UNIX + 1_000, 0, false);
    send(&mut world, &sender, 2, 0, 0, false); // its mailbox keeps it for 30 days
    world.pass_with(&[&sender, &host], 2_000);
    world.hub.handle_clock(world.now, UNIX + 31 * 86_400_000);
    world.pass_with(&[&sender, &host], 60_000);
    let (_, binding) = world.login(&host, "p");
    assert_eq!(world.take(&host).seqs(), [2], "1 was late before the jump");
    world.ack(&host, binding, 1);
    assert!(world.store.is_empty());
}

#[test]
fn a_jump_that_nobody_corrects_counts_after_a_while() {
    let mut world = world();
    let (sender, host) = world.known();
    send(&mut world, &sender, 1, UNIX + 86_400_000, 0, false);
    let day = UNIX + 2 * 86_400_000;
    world.hub.handle_clock(world.now, day);
    let after = world.now + 600_000;
    while world.now < after {
        world.pass_with(&[&sender, &host], 30_000);
    }
    world.login(&host, "p");
    assert!(world.take(&host).seqs().is_empty());
}

#[test]
fn a_clock_that_jumps_loses_nothing_without_deadline() {
    let mut world = world();
    let (sender, host) = world.known();
    let (_, binding) = world.login(&host, "p");
    for (seq, unix) in [
        (1, UNIX + 86_400_000),
        (2, UNIX - 86_400_000),
        (3, 0),
        (4, UNIX),
    ] {
        world.hub.handle_clock(world.now, unix);
        send(&mut world, &sender, seq, 0, 0, false);
        world.pass_with(&[&sender, &host], 500);
    }
    assert_eq!(world.take(&host).seqs(), [1, 2, 3, 4]);
    world.ack(&host, binding, 4);
    assert_eq!(world.take(&sender).outcomes().len(), 4);
}

/// Its receipt was lost, a later one went past it: `delivered`, of what the node drops as seen, would be a lie.
#[test]
fn what_was_expired_stays_so_when_the_clock_is_set_back() {
    let mut world = world();
    let (sender, host) = world.known();
    let (_, binding) = world.login(&host, "p");
    world.hub.handle_clock(world.now, UNIX + 5_000);
    send(&mut world, &sender, 1, UNIX + 4_000, 0, false);
    send(&mut world, &sender, 2, 0, 0, false);
    world.ack(&host, binding, 1);
    assert_eq!(world.take(&host).seqs(), [2]);
    assert_eq!(
        world.take(&sender).outcomes(),
        [(1, Outcome::Expired), (2, Outcome::Delivered)]
    );
    world.hub.handle_clock(world.now, UNIX);
    world.drop_link(&sender);
    let sender = world.node("sender", 1);
    send(&mut world, &sender, 1, UNIX + 4_000, 0, true);
    assert_eq!(world.take(&sender).outcomes(), [(1, Outcome::Expired)]);
    assert!(world.take(&host).seqs().is_empty());
}

/// What its session has already and the mailbox is about to take is not `busy` for it: a resend would be told `stored`.
#[test]
fn a_refused_deferred_send_takes_back_nothing_of_the_line() {
    let store = MemoryStore {
        limit_bytes: 1,
        ..MemoryStore::default()
    };
    let mut world = world_on(store);
    let (sender, host) = world.known();
    world.login(&host, "p");
    world.auto = false;
    send(&mut world, &sender, 1, 0, UNIX + 3_000, false);
    assert!(world.issue().is_some(), "the deferred one alone");
    for seq in 2..=10 {
        send(&mut world, &sender, seq, 0, 0, false);
    }
    assert_eq!(world.take(&host).seqs(), [2, 3, 4, 5], "the window is four");
    world.auto = true;
    world.run();
    let stored = (2..=10).map(|seq| (seq, Outcome::Stored));
    let all: Vec<_> = std::iter::once((1, Outcome::Refused))
        .chain(stored)
        .collect();
    assert_eq!(world.take(&sender).outcomes(), all);
}

/// Nor what waits again, because its host was lost.
#[test]
fn a_refused_deferred_send_takes_back_nothing_that_waits_again() {
    let store = MemoryStore {
        limit_bytes: 1,
        ..MemoryStore::default()
    };
    let mut world = world_on(store);
    let (sender, host) = world.known();
    let (login, _) = world.login(&host, "p");
    world.auto = false;
    send(&mut world, &sender, 1, 0, UNIX + 3_000, false);
    send(&mut world, &sender, 2, 0, 0, false);
    assert_eq!(world.take(&host).seqs(), [2]);
    world.drop_link(&host);
    world.auto = true;
    world.run();
    assert_eq!(world.take(&sender).outcomes(), [(1, Outcome::Refused)]);
    let host = world.hello("host", 1);
    world.register(&host, "p", login, true);
    assert_eq!(world.take(&host).seqs(), [2]);
}

#[test]
fn deferred_send_is_not_a_duplicate() {
    let mut world = world();
    let (sender, host) = world.known();
    let (_, binding) = world.login(&host, "p");
    send(&mut world, &sender, 5, 0, UNIX + 3_000, false);
    assert_eq!(world.take(&sender).outcomes(), [(5, Outcome::Stored)]);
    send(&mut world, &sender, 6, 0, 0, false);
    world.ack(&host, binding, 1);
    assert_eq!(world.take(&host).seqs(), [6]);
    send(&mut world, &sender, 5, 0, UNIX + 3_000, true);
    assert_eq!(
        world.take(&sender).outcomes(),
        [(6, Outcome::Delivered), (5, Outcome::Stored)]
    );
    world.pass_with(&[&sender, &host], 2_500);
    assert!(world.take(&host).seqs().is_empty());
    world.pass_with(&[&sender, &host], 1_000);
    assert_eq!(
        world.take(&host).delivered,
        [(binding, 2, 1)],
        "once, under the list's own number"
    );
    world.ack(&host, binding, 2);
    assert!(world.store.is_empty() && world.store.deferred.is_empty());
    send(&mut world, &sender, 5, 0, UNIX + 3_000, true);
    world.pass_with(&[&sender, &host], 1_000);
    assert!(
        world.take(&host).seqs().is_empty(),
        "its receipt was lost: it is on the list no more"
    );
}

#[test]
fn deferred_messages_outlive_the_hub_and_go_in_the_order_of_their_time() {
    let mut world = world();
    let (sender, host) = world.known();
    let _ = host;
    for (seq, wait) in [(1, 30_000), (2, 10_000), (3, 20_000)] {
        send(&mut world, &sender, seq, 0, UNIX + wait, false);
    }
    let mut world = world.restart();
    world.hub.handle_clock(world.now, UNIX + 60_000);
    world.pass(100);
    let host = world.node("host", 1);
    world.login(&host, "p");
    let bytes = world.received.remove(&host.conn).unwrap_or_default();
    let payloads: Vec<_> = decode(&bytes)
        .filter_map(|message| match message.unwrap() {
            Message::Deliver(deliver) => {
                assert_eq!((deliver.id.node_key, deliver.id.epoch), (DEFERRED_KEY, 1));
                Some(deliver.payload[0])
            }
            _ => None,
        })
        .collect();
    assert_eq!(payloads, [2, 3, 1]);
}

#[test]
fn a_deferred_mark_ends_with_its_sender_low() {
    let mut world = world();
    let (sender, _) = world.known();
    send(&mut world, &sender, 5, 0, UNIX + 3_000, false);
    assert_eq!(world.store.deferred_marks.len(), 1);
    world.say(&sender, &Message::Ping { nonce: 0, low: 6 });
    assert!(world.store.deferred_marks.is_empty());
}

#[test]
fn a_deferred_mark_ends_in_a_later_hub_too() {
    let mut world = world();
    let (sender, _) = world.known();
    send(&mut world, &sender, 5, 0, UNIX + 3_000, false);
    let mut world = world.restart();
    let sender = world.node("sender", 1);
    world.say(&sender, &Message::Ping { nonce: 0, low: 5 });
    world.pass_with(&[&sender], 30_000);
    assert_eq!(world.store.deferred_marks.len(), 1, "it may come again");
    world.say(&sender, &Message::Ping { nonce: 0, low: 6 });
    world.pass_with(&[&sender], 30_000);
    assert!(world.store.deferred_marks.is_empty());
}

#[test]
fn every_deferred_mark_has_its_turn() {
    let mut store = MemoryStore::default();
    for player in 0..2_500 {
        let pair = (format!("p-{player}").into(), node_key("sender"));
        store.deferred_marks.insert(pair, (1, 1));
    }
    let mut world = world_on(store);
    let sender = world.node("sender", 2);
    for round in 1..=3 {
        world.pass_with(&[&sender], 11_000);
        let left = 2_500_usize.saturating_sub(round * 1_000);
        assert_eq!(world.store.deferred_marks.len(), left);
    }
}

#[test]
fn a_full_mailbox_refuses_with_numbers() {
    let mut world = world_on(MemoryStore {
        player_messages: 3,
        player_bytes: 1_000,
        ..MemoryStore::default()
    });
    let (sender, _) = world.known();
    for seq in 1..=4 {
        send(
            &mut world,
            &sender,
            seq,
            0,
            u64::from(seq == 2) * (UNIX + 9_000),
            false,
        );
    }
    let receipts = world.take(&sender).receipts;
    let full = "mailbox full, 3 of 3 messages";
    assert_eq!(receipts[3], (4, Outcome::Refused, full.to_string()));
    assert_eq!(world.store.used("p"), (3, 24));
}

#[test]
fn quota_never_refuses_a_resend() {
    let mut world = world_on(MemoryStore {
        player_messages: 1,
        ..MemoryStore::default()
    });
    let (sender, _) = world.known();
    send(&mut world, &sender, 1, 0, 0, false);
    send(&mut world, &sender, 2, 0, 0, true);
    assert_eq!(
        world.take(&sender).outcomes(),
        [(1, Outcome::Stored), (2, Outcome::Stored)]
    );
}

#[test]
fn nothing_later_passes_a_refused_message() {
    let mut world = world_on(MemoryStore {
        player_messages: 1,
        ..MemoryStore::default()
    });
    let (sender, host) = world.known();
    send(&mut world, &sender, 1, 0, 0, false);
    world.auto = false;
    send(&mut world, &sender, 2, 0, 0, false);
    send(&mut world, &sender, 3, 0, 0, false);
    world.issue();
    send(&mut world, &sender, 4, 0, 0, false);
    world.auto = true;
    world.commit();
    world.run();
    use Outcome::{Busy, Refused, Stored};
    let mut outcomes = world.take(&sender).outcomes();
    outcomes.sort_unstable();
    assert_eq!(
        outcomes,
        [(1, Stored), (2, Refused), (3, Refused), (4, Busy)]
    );
    world.login(&host, "p");
    assert_eq!(world.store.rows("p").len(), 1);
    send(&mut world, &sender, 4, 0, 0, true);
    assert_eq!(
        world.take(&sender).outcomes(),
        [(4, Busy)],
        "until the sender knows"
    );
    world.say(&sender, &Message::Ping { nonce: 0, low: 4 });
    send(&mut world, &sender, 4, 0, 0, true);
    assert_eq!(world.take(&host).seqs(), [1, 4]);
}

#[test]
fn a_node_may_not_be_named_as_the_deferred_list() {
    let mut world = world();
    let node = world.hello("deferred", 1);
    assert_eq!(world.take(&node).error, Some(ErrorCode::NameTaken));
}

#[test]
fn an_operator_asks_the_store_through_the_hub() {
    let mut world = world();
    let (sender, _) = world.known();
    send(&mut world, &sender, 1, 0, 0, false);
    let argument = r#"{"op":"list"}"#;
    world.say(
        &sender,
        &Message::Query {
            call: 7,
            what: 4,
            argument,
        },
    );
    let answers = world.take(&sender).others;
    assert!(
        answers
            .iter()
            .any(|answer| answer.contains("call: 7") && answer.contains("status: Ok")),
        "{answers:?}"
    );
}

#[test]
fn what_became_due_in_a_batch_of_unknown_outcome_is_delivered() {
    let mut world = world();
    let (sender, host) = world.known();
    world.login(&host, "p");
    send(&mut world, &sender, 1, 0, UNIX + 5_000, false);
    assert_eq!(world.take(&sender).outcomes(), [(1, Outcome::Stored)]);
    world.auto = false;
    world.pass_with(&[&sender, &host], 6_000);
    assert!(world.issue().is_some(), "asks for what is due");
    world.fail(true);
    world.auto = true;
    world.pass_with(&[&sender, &host], 3_000);
    assert_eq!(world.take(&host).seqs().len(), 1);
}

#[test]
fn what_is_deferred_is_in_no_account_of_what_was_acked() {
    let mut world = world();
    let (sender, host) = world.known();
    let (_, binding) = world.login(&host, "p");
    send(&mut world, &sender, 1, 0, UNIX + 3_000, false);
    send(&mut world, &sender, 1, 0, UNIX + 3_000, true);
    send(&mut world, &sender, 2, 0, 0, false);
    world.ack(&host, binding, 1);
    world.pass_with(&[&sender, &host], 4_000);
    world.ack(&host, binding, 2);
    let outcomes = world.take(&sender).outcomes();
    let stored = (1, Outcome::Stored);
    assert_eq!(outcomes, [stored, stored, (2, Outcome::Delivered)]);
    let sums = world.hub.take_sums(100, true);
    let told: Vec<_> = sums.iter().map(|sum| (sum.outcome, sum.messages)).collect();
    assert_eq!(told, [("delivered", 1)], "it is handled under another id");
}
