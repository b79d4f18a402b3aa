//! Senders and tools that come and go.

use zmqgame_core::bus::message::Outcome;
use zmqgame_sim::world::script::Script;

/// [4a] Two short-lived senders under names of their own don't replace each other.
#[test]
fn two_operators_send_at_once() {
    let mut s = Script::new(2, 1, 1);
    s.online(0, 0);
    let connections = (s.conn(0), s.conn(1));
    let all: Vec<_> = (0..10).map(|n| s.send(n % 2, 0)).collect();
    s.until("all have receipts", |s| {
        all.iter()
            .all(|id| s.receipt(*id, 0) == Some(Outcome::Delivered))
    });
    assert_eq!((s.conn(0), s.conn(1)), connections);
    s.end();
}

/// [4a] 1,000 runs of a tool under one name, the last one killed: no marks are left when the next one has ended.
#[test]
fn marks_of_retired_senders_end() {
    let mut s = Script::new(1, 1, 1);
    s.online(0, 0);
    s.left(0);
    for _ in 0..1_000 {
        let (_, outcome) = s.sent(0, 0);
        assert_eq!(outcome, Outcome::Stored);
        s.stop_node(0);
        s.start_node(0);
        s.until("the next run is linked", |s| s.is_linked(0));
    }
    s.sent(0, 0);
    s.kill_node(0);
    s.run(10);
    s.start_node(0);
    s.until("the next run is linked", |s| s.is_linked(0));
    s.stop_node(0);
    s.online(0, 0);
    s.until("all are handled", |s| s.handled(0).len() == 1_001);
    s.left(0);
    s.online(0, 0);
    s.run(1_000);
    let marks = s
        .store()
        .mailboxes
        .get("player-0")
        .map_or(0, |of| of.accepted.len());
    assert_eq!(marks, 0);
    s.end();
}

/// [4c] Nobody of that name ever logged in.
#[test]
fn unknown_player_is_refused() {
    let mut s = Script::new(1, 1, 1);
    let id = s.send_to_name(0, "nobody");
    s.until("it has a receipt", |s| s.receipt_of(id, "nobody").is_some());
    assert_eq!(s.receipt_of(id, "nobody"), Some(Outcome::Refused));
    assert!(s.store().is_empty());
    s.online(0, 0);
    let (m1, _) = s.sent(0, 0);
    assert_eq!(s.handled(0), [m1]);
    s.end();
}
