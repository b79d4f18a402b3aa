//! Links: which connection counts, and what a hub does not read.

use zmqgame_core::bus::message::Outcome;
use zmqgame_sim::world::script::Script;

/// [4] A half-open link has a login and an ack in its buffer, its node reconnects: only the new one counts.
#[test]
fn replaced_connection_is_not_read() {
    let mut s = Script::new(1, 1, 2);
    s.online(0, 0);
    let host = s.host(0);
    let old = s.hold_to_hub(host);
    let m1 = s.send(0, 0);
    s.until("m1 is handled", |s| s.handled(0) == [m1]);
    s.attach(1, 0);
    s.run(10);
    s.lose_at_node(host);
    s.until("the node is back", |s| {
        s.conn(host).is_some_and(|conn| conn != old)
    });
    s.until("both players are bound", |s| s.login(1) != 0);
    s.run(50);
    let count = |s: &Script| {
        let hub = s.hub().expect("it lives");
        (hub.counters().bound, hub.counters().void_acks)
    };
    let (before, login) = (count(&s), s.login(1));
    s.release_to_hub(old);
    s.run(50);
    assert_eq!((count(&s), s.login(1)), (before, login));
    let (_, outcome) = s.sent(0, 1);
    assert_eq!(outcome, Outcome::Delivered);
    assert_eq!(s.handled(0), [m1]);
    s.end();
}

/// [6] R1 is killed and back within the time-out, p stays away: `stored` soon.
#[test]
fn new_node_epoch_ends_hosting() {
    let mut s = Script::new(1, 1, 1);
    s.online(0, 0);
    let host = s.host(0);
    s.kill_node(host);
    s.run(20);
    let m1 = s.send(0, 0);
    s.run(100);
    assert_eq!(s.receipt(m1, 0), None);
    s.start_node(host);
    let began_ms = s.now_ms();
    s.until("m1 has a receipt", |s| s.receipt(m1, 0).is_some());
    assert_eq!(s.receipt(m1, 0), Some(Outcome::Stored));
    assert!(s.now_ms() - began_ms < 500, "not by a time-out");
    s.end();
}
