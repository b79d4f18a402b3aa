//! A store that does not answer.

use zmqgame_core::bus::message::Outcome;
use zmqgame_sim::knobs::Knobs;
use zmqgame_sim::variant::Variant;
use zmqgame_sim::world::script::Script;

/// [38] The store stops for 30 s: live players go on; the others get `busy` at the bound, and order is kept.
#[test]
fn slow_store_holds_no_live_player() {
    let mut knobs = Knobs::calm(1, 1, 2);
    knobs.store_bytes = 50;
    let mut s = Script::with(knobs, Variant::default());
    s.online(0, 0);
    s.online(1, 0);
    s.left(1);
    s.run(100);
    s.hold_store();
    let held: Vec<_> = (0..20).map(|_| s.send(0, 1)).collect();
    for _ in 0..30 {
        let (_, outcome) = s.sent(0, 0);
        assert_eq!(outcome, Outcome::Delivered);
        s.run(1_000);
    }
    assert!(held.iter().all(|id| s.receipt(*id, 1).is_none()));
    assert!(s.hub().expect("it lives").counters().busy > 0);
    s.release_store();
    s.until("all are stored", |s| {
        held.iter()
            .all(|id| s.receipt(*id, 1) == Some(Outcome::Stored))
    });
    s.online(1, 0);
    s.until("all are handled", |s| s.handled(1).len() == 20);
    assert_eq!(s.handled(1), held);
    s.end();
}
