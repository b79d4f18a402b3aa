//! A hub that starts: which nodes it waits for, and which it refuses.

use zmqgame_core::bus::message::Outcome;
use zmqgame_sim::world::script::Script;

/// [4b] After a hub restart a process of an older epoch is refused, as before it.
#[test]
fn old_epoch_after_hub_restart_is_refused() {
    let mut s = Script::new(1, 1, 1);
    s.online(0, 0);
    let old = s.epoch(0);
    s.kill_node(0);
    s.run(10);
    s.start_node(0);
    s.until("the newer epoch is linked", |s| s.is_linked(0));
    s.run(100);
    s.kill_node(0);
    s.restart_hub_without(0);
    s.start_node_of_epoch(0, old);
    s.until("it is refused", |s| !s.exits().is_empty());
    assert!(s.exits()[0].contains("epoch"), "{:?}", s.exits());
    s.kill_node(0);
    s.run(10);
    s.start_node(0);
    s.until("a newer one is linked", |s| s.is_linked(0));
    let (m1, _) = s.sent(0, 0);
    assert_eq!(s.handled(0), [m1]);
    s.end();
}

/// [4b] A node does not come back after a hub restart: the hold ends at 3 s, its players' messages are stored.
#[test]
fn one_node_never_comes_back() {
    let mut s = Script::new(1, 2, 1);
    s.online(0, 0);
    let host = s.host(0);
    s.run(100);
    s.kill_node(host);
    s.restart_hub_without(host);
    let began_ms = s.now_ms();
    let m1 = s.send(0, 0);
    s.run(2_000);
    assert_eq!(s.receipt(m1, 0), None);
    s.until("it has a receipt", |s| s.receipt(m1, 0).is_some());
    assert_eq!(s.receipt(m1, 0), Some(Outcome::Stored));
    assert!(
        s.now_ms() - began_ms < 3_100,
        "{} ms",
        s.now_ms() - began_ms
    );
    s.end();
}
