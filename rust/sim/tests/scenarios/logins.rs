//! Takeover: the newest login wins, whoever comes back first.

use zmqgame_core::bus::message::Outcome;
use zmqgame_sim::story;
use zmqgame_sim::variant::Variant;
use zmqgame_sim::world::script::Script;

/// p moved from R1 to R2, and R1 was not told.
fn moved_unseen() -> Script {
    let mut s = Script::new(1, 2, 1);
    s.online(0, 0);
    let r1 = s.host(0);
    s.hold_to_node(r1);
    s.vanish(0);
    s.online(0, 1);
    s
}

fn hosts(s: &mut Script, host: usize) -> bool {
    let node = s.host(host);
    s.node(node)
        .expect("it lives")
        .login_of("player-0")
        .is_some()
}

/// [14] R1's ack arrives after the takeover, its number is that of an unhandled message of R2: no receipt.
#[test]
fn ack_of_old_binding_is_ignored() {
    let (mut s, m3) = story::ack_of_old_binding(Variant::default());
    assert!(s.hub().expect("it lives").counters().void_acks > 0);
    assert_eq!((s.handled(0).len(), s.receipt(m3, 0)), (2, None));
    let conn = s.conn(s.host(1)).expect("R2 is linked");
    s.release_to_node(conn);
    s.until("m3 is handled", |s| s.handled(0).last() == Some(&m3));
    assert_eq!(s.handled(0).len(), 3);
    s.end();
}

/// [11, 13] After a hub restart R2 registers, then R1 with its older login: R1 is dropped, its acks are void.
#[test]
fn old_registration_after_hub_restart() {
    let mut s = moved_unseen();
    let (r1, r2) = (s.host(0), s.host(1));
    s.keep_out(r1);
    s.kill_hub();
    s.start_hub();
    s.until("R2 is back", |s| s.is_linked(r2));
    s.run(50);
    s.let_in(r1);
    s.until("R1 is back", |s| s.is_linked(r1));
    s.run(50);
    assert!(!hosts(&mut s, 0) && hosts(&mut s, 1));
    let (m1, outcome) = s.sent(0, 0);
    assert_eq!(outcome, Outcome::Delivered);
    assert_eq!(s.handled(0), [m1]);
    s.end();
}

/// [11, 13] The same, R1 first.
#[test]
fn old_registration_first_after_hub_restart() {
    let mut s = moved_unseen();
    let (r1, r2) = (s.host(0), s.host(1));
    s.keep_out(r2);
    s.kill_hub();
    s.start_hub();
    s.until("R1 is back", |s| s.is_linked(r1));
    let m1 = s.send(0, 0);
    s.run(50);
    assert_eq!(s.receipt(m1, 0), None);
    s.let_in(r2);
    s.until("R2 is back", |s| s.is_linked(r2));
    s.run(50);
    assert!(!hosts(&mut s, 0) && hosts(&mut s, 1));
    s.until("m1 is handled", |s| s.handled(0) == [m1]);
    s.end();
}

/// [12] Counters start again with the hub, its epoch does not: the old login loses.
#[test]
fn login_after_hub_restart_beats_old() {
    let mut s = Script::new(1, 2, 1);
    for _ in 0..5 {
        s.online(0, 0);
        s.left(0);
    }
    s.online(0, 0);
    let (r1, old) = (s.host(0), s.login(0));
    s.keep_out(r1);
    s.kill_hub();
    s.start_hub();
    s.vanish(0);
    let r2 = s.host(1);
    s.until("R2 is back", |s| s.is_linked(r2));
    s.online(0, 1);
    assert!(s.login(0) > old && s.login(0) as u32 <= old as u32);
    s.let_in(r1);
    s.until("R1 is back", |s| s.is_linked(r1));
    s.run(50);
    assert!(!hosts(&mut s, 0) && hosts(&mut s, 1));
    let (m1, _) = s.sent(0, 0);
    assert_eq!(s.handled(0), [m1]);
    s.end();
}
