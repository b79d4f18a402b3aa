//! Client sessions: late answers, stale hosts, logouts.

use zmqgame_sim::story;
use zmqgame_sim::variant::Variant;
use zmqgame_sim::world::script::Script;

/// [29] Attach at R1, vanish, attach at R2, handle, leave; R1's `bound` arrives: nobody is served by it.
#[test]
fn abandoned_login_is_answered_late() {
    let (s, m1) = story::abandoned_login(Variant::default());
    assert_eq!(s.handled(0), [m1]);
    s.end();
}

/// [28] R1 missed the move; a client without its login attaches: a new login, no stale frame.
#[test]
fn new_client_on_stale_host() {
    let (s, m1) = story::stale_host(Variant::default());
    assert_eq!(s.handled(0), [m1]);
    s.end();
}

/// [18, 20, 31] m1 is handled live, the receipt lost, logout, new session, resend: not handled again, receipt given.
#[test]
fn logout_carries_cursor() {
    let mut s = Script::new(1, 1, 1);
    s.online(0, 0);
    s.hold_to_node(0);
    let m1 = s.send(0, 0);
    s.until("m1 is handled", |s| s.handled(0) == [m1]);
    s.run(10);
    s.keep_out(0);
    s.cut(0);
    s.left(0);
    s.online(0, 0);
    s.let_in(0);
    s.until("m1 has a receipt", |s| s.receipt(m1, 0).is_some());
    s.run(100);
    assert_eq!(s.handled(0), [m1]);
    s.end();
}

/// [31] The hub is killed between logout and commit: the logout is repeated, the new session sees nothing old.
#[test]
fn logout_done_waits_for_store() {
    let mut s = Script::new(1, 1, 1);
    s.online(0, 0);
    s.hold_to_node(0);
    let m1 = s.send(0, 0);
    s.until("m1 is handled", |s| s.handled(0) == [m1]);
    s.run(10);
    s.keep_out(0);
    s.hold_store();
    s.leave(0);
    s.until("the logout is under way", |s| s.held_batches() > 0);
    s.run(100);
    assert!(!s.is_away(0));
    s.kill_hub();
    s.release_store();
    s.start_hub();
    s.until("p has left", |s| s.is_away(0));
    s.online(0, 0);
    s.let_in(0);
    s.until("m1 has a receipt", |s| s.receipt(m1, 0).is_some());
    s.run(100);
    assert_eq!(s.handled(0), [m1]);
    s.end();
}

/// [13] p's host was replaced and is told: a client that comes back to it is not left to wait there.
#[test]
fn replaced_host_is_told() {
    let (s, m1) = story::replaced_host(Variant::default());
    assert_eq!(s.handled(0), [m1]);
    s.end();
}
