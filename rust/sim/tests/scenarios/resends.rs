//! Senders: what has no receipt comes again, and is handled once and in order.

use zmqgame_core::bus::message::Outcome;
use zmqgame_sim::world::script::Script;

/// [26] m1 is handled and acked, the hub killed before the receipt: the resend is acked, not handled.
#[test]
fn resend_after_hub_kill_is_handled_once() {
    let mut s = Script::new(1, 1, 1);
    s.online(0, 0);
    s.hold_to_node(0);
    let m1 = s.send(0, 0);
    s.until("it is handled", |s| s.handled(0) == [m1]);
    s.run(50);
    assert_eq!(s.receipt(m1, 0), None);
    s.restart_hub();
    s.until("it has a receipt", |s| s.receipt(m1, 0).is_some());
    assert_eq!(s.handled(0), [m1]);
    s.end();
}

/// [1, 26] Every receipt is cut off 100 times: one effect, one final receipt.
#[test]
fn receipt_lost_with_sender_link() {
    let mut s = Script::new(1, 1, 1);
    s.online(0, 0);
    s.hold_to_node(0);
    let m1 = s.send(0, 0);
    for _ in 0..100 {
        s.run(30);
        assert_eq!(s.receipt(m1, 0), None);
        let resends = s.hub().expect("it lives").counters().resends;
        s.cut(0);
        s.until("it came again", |s| {
            s.hub().expect("it lives").counters().resends > resends
        });
        s.hold_to_node(0);
    }
    assert_eq!(s.handled(0), [m1]);
    s.cut(0);
    s.until("it has a receipt", |s| s.receipt(m1, 0).is_some());
    s.end();
}

/// [1] The hub is killed with m1 and m2 waiting, the sender back and sending m3 at once: m1 m2 m3.
#[test]
fn resend_goes_before_new() {
    let mut s = Script::new(1, 1, 1);
    s.online(0, 0);
    s.hold_to_hub(0);
    let (m1, m2) = (s.send(0, 0), s.send(0, 0));
    s.run(20);
    s.kill_hub();
    s.start_hub();
    s.until("the sender is back", |s| s.is_linked(0));
    let m3 = s.send(0, 0);
    s.until("all are handled", |s| s.handled(0).len() == 3);
    assert_eq!(s.handled(0), [m1, m2, m3]);
    s.end();
}

/// [3] m1 is stored, the sender killed, its new epoch sends m2: m1 then m2; marks of the old epoch end.
#[test]
fn new_sender_epoch_continues_order() {
    let mut s = Script::new(1, 1, 1);
    s.online(0, 0);
    s.left(0);
    let (m1, outcome) = s.sent(0, 0);
    assert_eq!(outcome, Outcome::Stored);
    s.kill_node(0);
    s.run(2);
    s.start_node(0);
    s.until("the sender is back", |s| s.is_linked(0));
    let (m2, _) = s.sent(0, 0);
    assert!(m2.epoch > m1.epoch);
    s.online(0, 0);
    s.until("both are handled", |s| s.handled(0).len() == 2);
    assert_eq!(s.handled(0), [m1, m2]);
    s.left(0);
    let mark = |s: &mut Script| {
        let mailbox = s.store().mailboxes.get("player-0").cloned();
        mailbox.and_then(|mailbox| mailbox.accepted.get(&m1.node_key).copied())
    };
    assert!(mark(&mut s).is_none_or(|(epoch, _)| epoch == m2.epoch));
    s.end();
}

/// [25] The client holds its ack: no receipt. Its node is killed: the next host gets the message.
#[test]
fn delivered_only_after_client_ack() {
    let mut s = Script::new(1, 2, 1);
    s.online(0, 0);
    s.hold_acks(0);
    let m1 = s.send(0, 0);
    s.until("it is handled", |s| s.handled(0) == [m1]);
    s.run(4_000);
    assert_eq!(s.receipt(m1, 0), None);
    let host = s.host(0);
    s.kill_node(host);
    s.run(5);
    s.release_acks(0);
    s.online(0, 1);
    s.until("it has a receipt", |s| s.receipt(m1, 0).is_some());
    assert_eq!(s.receipt(m1, 0), Some(Outcome::Delivered));
    assert_eq!(s.handled(0), [m1]);
    s.end();
}

/// [27] The client handled m1, R1 is killed before its ack: R2 gets m1, the client does not.
#[test]
fn client_cursor_survives_dead_node() {
    let mut s = Script::new(1, 2, 1);
    s.online(0, 0);
    let r1 = s.host(0);
    s.hold_to_hub(r1);
    let m1 = s.send(0, 0);
    s.until("it is handled", |s| s.handled(0) == [m1]);
    s.kill_node(r1);
    s.run(5);
    let delivered = s.hub().expect("it lives").counters().deliveries;
    s.online(0, 1);
    s.until("it has a receipt", |s| s.receipt(m1, 0).is_some());
    assert!(s.hub().expect("it lives").counters().deliveries > delivered);
    assert_eq!(s.handled(0), [m1]);
    s.end();
}
