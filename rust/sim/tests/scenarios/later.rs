//! Deferred sends and quotas.

use zmqgame_core::bus::message::Outcome;
use zmqgame_sim::world::script::Script;

/// [37] seq 5 is deferred, 6 is handled, 5 is due: it is handled.
#[test]
fn deferred_send_is_not_a_duplicate() {
    let mut s = Script::new(1, 1, 1);
    s.online(0, 0);
    let m5 = s.send_later(0, 0, 3_000);
    s.until("it is on its list", |s| s.receipt(m5, 0).is_some());
    assert_eq!(s.receipt(m5, 0), Some(Outcome::Stored));
    let (m6, outcome) = s.sent(0, 0);
    assert_eq!(outcome, Outcome::Delivered);
    s.run(2_000);
    assert_eq!(s.handled(0), [m6]);
    s.until("the deferred one is handled", |s| s.handled(0).len() == 2);
    assert!(s.now_ms() >= 3_000);
    assert!(s.store().deferred.is_empty());
    s.end();
}

/// [24] m1 is deferred, its sender knows, the hub is killed before it ends the mark: the next hub does, and not before.
#[test]
fn deferred_marks_end_after_a_hub_restart() {
    let mut s = Script::new(2, 1, 1);
    s.online(0, 0);
    s.hold_to_node(0);
    s.send_later(0, 0, 1_000_000);
    s.run(100);
    assert_eq!(s.store().deferred_marks.len(), 1);
    s.keep_out(0);
    s.restart_hub_without(0);
    s.run(30_000);
    assert_eq!(s.store().deferred_marks.len(), 1, "its sender was not told");
    s.let_in(0);
    s.run(30_000);
    assert!(s.store().deferred_marks.is_empty());
    assert_eq!(s.store().deferred.len(), 1);
}

/// [35] The mailbox is full, its hub is killed, a handled message comes again while p is offline: it is not refused, as
/// a new one still is.
#[test]
fn quota_never_refuses_a_resend() {
    let mut s = Script::new(2, 1, 1);
    s.store().player_messages = 3;
    s.online(0, 0);
    s.hold_to_node(0);
    let m1 = s.send(0, 0);
    s.until("m1 is handled", |s| s.handled(0) == [m1]);
    s.run(10);
    s.keep_out(0);
    s.cut(0);
    let host = s.host(0);
    s.vanish(0);
    s.kill_node(host);
    s.run(10);
    s.start_node(host);
    s.run(1_000);
    for _ in 0..3 {
        assert_eq!(s.sent(1, 0).1, Outcome::Stored);
    }
    assert_eq!(s.sent(1, 0).1, Outcome::Refused);
    s.restart_hub_without(0);
    s.run(4_000);
    assert_eq!(s.sent(1, 0).1, Outcome::Refused);
    s.let_in(0);
    s.until("m1 has a receipt", |s| s.receipt(m1, 0).is_some());
    assert_eq!(s.receipt(m1, 0), Some(Outcome::Stored));
    s.online(0, 0);
    s.until("the others are handled", |s| s.handled(0).len() == 4);
    assert_eq!(s.handled(0).iter().filter(|id| **id == m1).count(), 1);
    s.end();
}
