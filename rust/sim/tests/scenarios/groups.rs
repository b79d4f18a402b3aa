//! Group sends: each recipient is a unicast with the same id.

use zmqgame_core::bus::message::Outcome;
use zmqgame_sim::world::script::Script;

/// [39, 40] The hub is killed with half of a group acked: one effect each, one whole report.
#[test]
fn group_resend_after_half_the_acks() {
    let mut s = Script::new(1, 2, 4);
    for client in 0..4 {
        s.online(client, client % 2);
    }
    s.run(100);
    let half = s.host(1);
    s.hold_to_hub(half);
    let m1 = s.send_to_all(0);
    s.until("all have handled it", |s| {
        (0..4).all(|client| s.handled(client) == [m1])
    });
    s.run(50);
    assert!((0..4).all(|client| s.receipt(m1, client).is_none()));
    s.restart_hub();
    s.until("the report is whole", |s| {
        (0..4).all(|client| s.receipt(m1, client).is_some())
    });
    // A new hub can't tell who had handled it from who joined since: it says that their mark is past it.
    let told = |client| s.receipt(m1, client);
    assert!(
        (0..4).all(|client| matches!(told(client), Some(Outcome::Delivered | Outcome::Passed)))
    );
    assert!((0..4).all(|client| s.handled(client) == [m1]));
    s.end();
}
