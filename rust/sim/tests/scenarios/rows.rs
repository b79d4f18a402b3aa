//! Rows of the mailbox: read and not taken, settled when acked, numbered once and for all.

use zmqgame_core::bus::message::Outcome;
use zmqgame_sim::world::script::Script;

fn with_stored(messages: usize) -> (Script, Vec<zmqgame_core::bus::message::MessageId>) {
    let mut s = Script::new(1, 2, 1);
    s.online(0, 0);
    s.left(0);
    let all = (0..messages)
        .map(|_| {
            let (id, outcome) = s.sent(0, 0);
            assert_eq!(outcome, Outcome::Stored);
            id
        })
        .collect();
    (s, all)
}

/// [21] Rows are delivered, R1 is killed before the acks: R2 gets all of them; the store fails in settle.
#[test]
fn row_settled_only_after_ack() {
    let (mut s, all) = with_stored(3);
    s.hold_acks(0);
    s.online(0, 0);
    s.until("all are handled", |s| s.handled(0).len() == 3);
    assert_eq!(s.rows(0), all);
    let host = s.host(0);
    s.kill_node(host);
    s.run(10);
    assert_eq!(s.rows(0), all);
    s.commit_late(true);
    s.release_acks(0);
    s.attach(0, 1);
    s.until("its rows are read", |s| {
        s.hub().expect("it lives").counters().rows_read >= 6
    });
    s.fail_store();
    s.until("all are settled", |s| s.rows(0).is_empty());
    assert!(s.hub().expect("it lives").counters().store_failures <= 1);
    assert_eq!(s.handled(0), all);
    s.end();
}

/// [22] The store is emptied, a new append comes, the settle is repeated: the new row stays and is read.
#[test]
fn row_numbers_are_not_reused() {
    let (mut s, all) = with_stored(1);
    let number = |s: &mut Script| s.store().rows("player-0").last().map(|row| row.row);
    let first = number(&mut s).expect("m1 has a row");
    s.hold_acks(0);
    s.online(0, 0);
    s.until("m1 is handled", |s| s.handled(0) == all);
    // The settle is committed, and nobody knows: it comes again behind the append of m2.
    s.hold_store();
    s.release_acks(0);
    s.until("the settle is under way", |s| s.held_batches() > 0);
    s.commit_late(true);
    s.release_store();
    s.until("m1 is settled", |s| s.rows(0).is_empty());
    s.vanish(0);
    let host = s.host(0);
    s.kill_node(host);
    s.kill_hub();
    s.run(10);
    s.start_hub();
    let (m2, outcome) = s.sent(0, 0);
    assert_eq!(outcome, Outcome::Stored);
    assert!(number(&mut s).expect("m2 has a row") > first);
    s.online(0, 1);
    s.until("m2 is handled", |s| s.handled(0).len() == 2);
    assert_eq!(s.handled(0), [all[0], m2]);
    s.end();
}
