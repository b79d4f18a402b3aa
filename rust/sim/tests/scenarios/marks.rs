//! Marks: none goes before it may, and there are few.

use zmqgame_core::bus::message::Outcome;
use zmqgame_sim::knobs::Knobs;
use zmqgame_sim::story;
use zmqgame_sim::variant::Variant;
use zmqgame_sim::world::script::Script;

/// [32] m1 is stored and receipted, low is above it, its row unsettled, forget is tried, the hub killed: m1 once.
#[test]
fn forget_waits_for_settle() {
    let mut knobs = Knobs::calm(1, 1, 1);
    knobs.cursor_senders = 2;
    let mut s = Script::with(knobs, Variant::default());
    s.online(0, 0);
    s.left(0);
    let (m1, outcome) = s.sent(0, 0);
    assert_eq!(outcome, Outcome::Stored);
    s.run(2_000);
    s.hold_acks(0);
    s.online(0, 0);
    s.until("m1 is handled", |s| s.handled(0) == [m1]);
    s.hold_store();
    s.release_acks(0);
    s.until("the settle is under way", |s| s.held_batches() > 0);
    s.run(500);
    assert_eq!(s.hub().expect("it lives").counters().forgets, 0);
    s.kill_hub();
    s.release_store();
    s.start_hub();
    s.until("m1 is settled", |s| s.rows(0).is_empty());
    s.run(100);
    assert_eq!(s.handled(0), [m1]);
    s.end();
}

/// [24] Settle, logout, the receipt is lost, trim is tried: the resend inserts nothing.
#[test]
fn accepted_mark_waits_for_low() {
    let (s, m1) = story::trim_before_low(Variant::default());
    assert_eq!(s.handled(0), [m1]);
    s.end();
}

/// [32] 10,000 restarts of a sender, then 65 senders, to one player: memory is flat, nothing dropped.
#[test]
fn marks_are_bounded() {
    let mut s = Script::new(66, 1, 1);
    s.online(0, 0);
    for turn in 0..10_000_usize {
        s.send(0, 0);
        s.until("it is handled", |s| s.handled(0).len() == turn + 1);
        s.kill_node(0);
        s.run(2);
        s.start_node(0);
        s.until("the sender is back", |s| s.is_linked(0));
        assert!(s.cursor_len(0) <= 1);
    }
    let marks = s
        .store()
        .mailboxes
        .get("player-0")
        .map_or(0, |of| of.accepted.len());
    assert!(marks <= 1);
    for round in 1..=3 {
        for sender in 1..66 {
            s.send(sender, 0);
        }
        s.until("all are handled", |s| {
            s.handled(0).len() == 10_000 + 65 * round
        });
        assert!(s.cursor_len(0) <= 64);
    }
    s.end();
}
