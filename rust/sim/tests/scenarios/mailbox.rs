//! Hub and mailbox: what is stored, when, and in which order it comes out.

use zmqgame_core::bus::message::Outcome;
use zmqgame_sim::world::script::Script;

/// [10] The hub is killed between append and commit, at every store operation, committed or not.
#[test]
fn stored_only_after_commit() {
    for at in 0..24 {
        for committed in [false, true] {
            let mut s = Script::new(1, 1, 1);
            s.kill_hub_at_batch(at, committed);
            s.attach(0, 0);
            let _ = life(&mut s);
            s.end();
        }
    }
}

/// A session, messages to an absent player, another session: about 24 batches.
fn life(s: &mut Script) -> usize {
    let mut sent = 0;
    for step in 0..12 {
        s.run(100);
        s.start_hub();
        match step {
            3 | 9 if !s.is_away(0) => s.leave(0),
            6 | 11 if s.is_away(0) => s.attach(0, 0),
            _ => {
                s.send(0, 0);
                sent += 1;
            }
        }
    }
    s.run(4_000);
    s.start_hub();
    sent
}

/// [15] m1 is stored, p logs in, m2 arrives before the read is answered: m1 m2.
#[test]
fn live_waits_for_mailbox() {
    let mut s = Script::new(1, 1, 1);
    s.online(0, 0);
    s.left(0);
    let (m1, outcome) = s.sent(0, 0);
    assert_eq!(outcome, Outcome::Stored);
    s.hold_store();
    s.attach(0, 0);
    s.until("p is bound", |s| s.login(0) != 0);
    let m2 = s.send(0, 0);
    s.run(50);
    assert!(s.handled(0).is_empty());
    s.release_store();
    s.until("both are handled", |s| s.handled(0).len() == 2);
    assert_eq!(s.handled(0), [m1, m2]);
    s.end();
}

/// [8, 17] The append of m1 is in progress while p logs in: m1 comes in this session.
#[test]
fn append_behind_login_read() {
    let mut s = Script::new(1, 1, 1);
    s.online(0, 0);
    s.left(0);
    s.hold_store();
    let m1 = s.send(0, 0);
    s.until("its append is in progress", |s| s.held_batches() > 0);
    s.attach(0, 0);
    s.until("p is bound", |s| s.login(0) != 0);
    let login = s.login(0);
    s.run(50);
    s.release_store();
    s.until("it is handled", |s| s.handled(0) == [m1]);
    assert_eq!(s.login(0), login);
    s.end();
}

/// [7] m1 is in flight, the queue overflows, the last has its receipt, the hub is killed, m1 resent: all, in order.
#[test]
fn spill_takes_the_whole_queue() {
    let mut s = Script::new(1, 1, 1);
    s.online(0, 0);
    let host = s.host(0);
    s.hold_to_node(host);
    // 8 go out and 16 wait in memory: one more is too many.
    let all: Vec<_> = (0..25).map(|_| s.send(0, 0)).collect();
    let last = all[24];
    s.until("the last is stored", |s| s.receipt(last, 0).is_some());
    assert_eq!(s.receipt(last, 0), Some(Outcome::Stored));
    assert_eq!(s.rows(0), all);
    s.restart_hub();
    s.until("all are handled", |s| s.handled(0).len() == 25);
    assert_eq!(s.handled(0), all);
    s.end();
}

/// [9] The host's link is silently dead: after the time-out all is stored, and the next login gets it.
#[test]
fn host_lost_with_messages_in_flight() {
    let mut s = Script::new(1, 2, 1);
    s.online(0, 0);
    let host = s.host(0);
    s.cut_silently(host);
    s.keep_out(host);
    let all: Vec<_> = (0..5).map(|_| s.send(0, 0)).collect();
    s.until("all have receipts", |s| {
        all.iter().all(|id| s.receipt(*id, 0).is_some())
    });
    assert!(
        all.iter()
            .all(|id| s.receipt(*id, 0) == Some(Outcome::Stored))
    );
    s.vanish(0);
    s.online(0, 1);
    s.until("all are handled", |s| s.handled(0).len() == 5);
    assert_eq!(s.handled(0), all);
    s.end();
}
