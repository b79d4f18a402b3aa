//! Worlds by hand for the rules of policies, times and groups [33 to 40].

use super::two_hosts;
use crate::variant::Variant;
use crate::world::script::Script;
use zmqgame_core::bus::message::Outcome;

/// A `droppable` is handled, then a message that must be [33].
#[must_use]
pub fn policy_before_must_deliver(variant: Variant) -> Script {
    let mut s = two_hosts(variant);
    s.online(0, 0);
    let loose = s.send_loose(0, 0, "");
    s.run(50);
    let m1 = s.send(0, 0);
    s.run(50);
    s.claim("33", s.handled(0) == [loose, m1], "one of them is lost");
    s
}

/// The window to p is full and m9 waits: a `droppable` behind it is dropped [33].
#[must_use]
pub fn policy_behind_a_queue(variant: Variant) -> Script {
    let mut s = two_hosts(variant);
    s.online(0, 0);
    s.hold_acks(0);
    let all: Vec<_> = (0..9).map(|_| s.send(0, 0)).collect();
    let loose = s.send_loose(0, 0, "");
    s.run(50);
    s.release_acks(0);
    s.run(50);
    s.claim("33", s.handled(0) == all, "it overtook m9");
    let told = s.loose_receipt(loose);
    s.claim("33", told == Some(Outcome::Dropped), "it was not dropped");
    s
}

/// Two values of one key while p is away: the newest waits for p [33].
#[must_use]
pub fn latest_of_one_key(variant: Variant) -> Script {
    let mut s = two_hosts(variant);
    s.online(0, 0);
    s.left(0);
    let old = s.send_loose(0, 0, "key");
    let other = s.send_loose(0, 0, "other");
    let new = s.send_loose(0, 0, "key");
    s.run(50);
    s.online(0, 1);
    s.run(50);
    s.claim("33", s.handled(0) == [other, new], "not the newest of each");
    let told = s.loose_receipt(old);
    s.claim("33", told == Some(Outcome::Dropped), "not told as replaced");
    s
}

/// m1 is handled, and not acked before its deadline: it is not told as expired [34].
#[must_use]
pub fn deadline_of_what_went_out(variant: Variant) -> Script {
    let mut s = two_hosts(variant);
    s.online(0, 0);
    s.hold_acks(0);
    let m1 = s.send_until(0, 0, 500);
    s.run(2_000);
    let told = s.receipt(m1, 0);
    s.claim("34", told.is_none(), "told before its ack");
    s.release_acks(0);
    s.run(50);
    let told = s.receipt(m1, 0);
    s.claim(
        "34",
        told == Some(Outcome::Delivered),
        "not told as handled",
    );
    s
}

/// m1 is stored, its deadline passes, p comes: p does not see it, and sees m2 [34].
#[must_use]
pub fn deadline_of_a_row(variant: Variant) -> Script {
    let mut s = two_hosts(variant);
    s.online(0, 0);
    s.left(0);
    s.send_until(0, 0, 500);
    let (m2, _) = s.sent(0, 0);
    s.run(1_000);
    s.online(0, 0);
    s.run(50);
    s.claim(
        "34",
        s.handled(0) == [m2],
        "it was shown after its deadline",
    );
    s.claim("34", s.rows(0).is_empty(), "its row is left");
    s
}

/// m1 is handled; its receipt, its host and the hub are lost; the mailbox is filled; m1 is sent again [35].
#[must_use]
pub fn resend_to_a_full_mailbox(variant: Variant) -> Script {
    let mut s = Script::with(crate::knobs::Knobs::calm(2, 1, 1), variant);
    s.store().player_messages = 3;
    s.online(0, 0);
    s.hold_to_node(0);
    let m1 = s.send(0, 0);
    s.run(50);
    s.keep_out(0);
    s.cut(0);
    let host = s.host(0);
    s.vanish(0);
    s.kill_node(host);
    s.kill_hub();
    s.start_hub();
    s.start_node(host);
    s.run(6_000);
    for _ in 0..4 {
        s.sent(1, 0);
    }
    s.let_in(0);
    s.until("m1 has a receipt", |s| s.receipt(m1, 0).is_some());
    s
}

/// m1 is deferred, m2 is handled, m1 is due [37].
#[must_use]
pub fn due_behind_a_later_one(variant: Variant) -> Script {
    let mut s = two_hosts(variant);
    s.online(0, 0);
    s.send_later(0, 0, 3_000);
    s.run(50);
    s.sent(0, 0);
    s.run(5_000);
    s.claim("37", s.handled(0).len() == 2, "it was not handled");
    s
}

/// A group send, and at once a unicast to one of its members [39].
#[must_use]
pub fn group_send_before_unicast(variant: Variant) -> Script {
    let mut s = two_hosts(variant);
    s.online(0, 0);
    s.run(5_000);
    let m1 = s.send_to_all(0);
    let m2 = s.send(0, 0);
    s.run(2_000);
    s.claim("39", s.handled(0) == [m1, m2], "not in the order sent");
    s
}

/// A group send of which the receipt is lost; p2 joins and handles m2; the group send comes again [40].
#[must_use]
pub fn late_joiner(variant: Variant) -> Script {
    let mut s = Script::with(crate::knobs::Knobs::calm(1, 2, 2), variant);
    s.online(0, 0);
    s.online(1, 0);
    s.left(1);
    s.run(5_000);
    s.hold_to_node(0);
    let m1 = s.send_to_all(0);
    s.run(50);
    s.online(1, 1);
    s.send(0, 1);
    s.run(50);
    s.cut(0);
    s.run(2_000);
    let told = s.receipt(m1, 1);
    s.claim("40", told == Some(Outcome::Passed), "not told as passed");
    s
}
