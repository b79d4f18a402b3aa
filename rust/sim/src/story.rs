//! Worlds by hand that show what a rule is for: with all rules nothing is found, without the rule something is.
//!
//! Chance hardly ever brings these about: each needs a host that hears late and a client that is back there in time.

pub mod policies;

#[cfg(feature = "broken")]
use crate::checker::Violation;
use crate::knobs::Knobs;
use crate::variant::Variant;
use crate::world::script::Script;
#[cfg(feature = "broken")]
use zmqgame_core::bus::broken::Rule;
use zmqgame_core::bus::message::MessageId;

fn two_hosts(variant: Variant) -> Script {
    Script::with(Knobs::calm(1, 2, 1), variant)
}

/// A client asks R1 for a login and vanishes before the answer, which has m1 behind it; at R2 it handles m1 and
/// leaves; a new session of it asks R1; then the old answer arrives there [29].
#[must_use]
pub fn abandoned_login(variant: Variant) -> (Script, MessageId) {
    let mut s = two_hosts(variant);
    s.online(0, 0);
    s.left(0);
    let r1 = s.host(0);
    let late = s.hold_to_node(r1);
    s.attach(0, 0);
    s.run(50);
    let m1 = s.send(0, 0);
    s.run(50);
    s.vanish(0);
    s.online(0, 1);
    s.run(50);
    s.left(0);
    s.attach(0, 0);
    s.run(50);
    s.release_to_node(late);
    s.run(100);
    (s, m1)
}

/// R1 holds m1 for a client that is gone; p moves to R2 unseen by R1, handles m1 and leaves; a new session of it
/// attaches at R1, which still believes that it hosts p [28].
#[must_use]
pub fn stale_host(variant: Variant) -> (Script, MessageId) {
    let mut s = two_hosts(variant);
    s.online(0, 0);
    s.vanish(0);
    let m1 = s.send(0, 0);
    s.run(50);
    let r1 = s.host(0);
    let late = s.hold_to_node(r1);
    s.online(0, 1);
    s.run(50);
    s.left(0);
    s.attach(0, 0);
    s.run(50);
    s.release_to_node(late);
    s.run(100);
    (s, m1)
}

/// m1 is stored, handled and settled, its receipt is lost, its sender away; p leaves, comes back, and its mark could
/// be trimmed; p leaves again, and the sender's resend finds the mark, or a mailbox that takes it once more [24].
#[must_use]
pub fn trim_before_low(variant: Variant) -> (Script, MessageId) {
    let mut s = two_hosts(variant);
    s.online(0, 0);
    s.left(0);
    s.hold_to_node(0);
    let m1 = s.send(0, 0);
    s.run(50);
    s.online(0, 0);
    s.run(50);
    s.keep_out(0);
    s.cut(0);
    for _ in 0..2 {
        s.left(0);
        s.online(0, 0);
        s.run(50);
    }
    s.left(0);
    s.let_in(0);
    s.run(200);
    s.online(0, 0);
    s.run(100);
    (s, m1)
}

/// R1 holds the ack of m2, its second message, until p is at R2, where m3 is the second and is not handled yet [14].
#[must_use]
pub fn ack_of_old_binding(variant: Variant) -> (Script, MessageId) {
    let mut s = two_hosts(variant);
    s.online(0, 0);
    s.sent(0, 0);
    let (r1, r2) = (s.host(0), s.host(1));
    let late = s.hold_to_hub(r1);
    s.send(0, 0);
    s.run(50);
    s.vanish(0);
    s.hold_to_node(r2);
    s.attach(0, 1);
    s.run(50);
    let m3 = s.send(0, 0);
    s.run(50);
    s.release_to_hub(late);
    s.run(50);
    (s, m3)
}

/// The hub gives p to R2, which never hears of it; p's client is back at R1, with the login that R1 holds [13].
#[must_use]
pub fn replaced_host(variant: Variant) -> (Script, MessageId) {
    let mut s = two_hosts(variant);
    s.online(0, 0);
    s.vanish(0);
    let r2 = s.host(1);
    let late = s.hold_to_node(r2);
    s.attach(0, 1);
    s.run(50);
    s.vanish(0);
    s.attach(0, 0);
    s.run(50);
    s.release_to_node(late);
    let m1 = s.send(0, 0);
    s.run(100);
    (s, m1)
}

/// The world by hand that notices the lack of a rule, and what it finds without it.
#[cfg(feature = "broken")]
#[must_use]
pub fn without(rule: Rule) -> Option<(&'static str, Violation)> {
    let variant = Variant::without(rule);
    let (name, script) = match rule {
        Rule::LastRequest => (
            "abandoned_login_is_answered_late",
            abandoned_login(variant).0,
        ),
        Rule::ResumeByLogin => ("new_client_on_stale_host", stale_host(variant).0),
        Rule::FreshBinding => (
            "ack_of_old_binding_is_ignored",
            ack_of_old_binding(variant).0,
        ),
        Rule::DropOfReplaced => ("replaced_host_is_told", replaced_host(variant).0),
        Rule::TrimWaits => ("accepted_mark_waits_for_low", trim_before_low(variant).0),
        rule => of_policies(rule, variant)?,
    };
    Some((name, script.verdict().into_iter().next()?))
}

#[cfg(feature = "broken")]
fn of_policies(rule: Rule, variant: Variant) -> Option<(&'static str, Script)> {
    let story = match rule {
        Rule::PolicyHasNoMark => (
            "policy_before_must_deliver",
            policies::policy_before_must_deliver as fn(Variant) -> Script,
        ),
        Rule::PolicyKeepsPlace => (
            "policy_behind_a_queue",
            policies::policy_behind_a_queue as _,
        ),
        Rule::LatestReplaces => ("latest_of_one_key", policies::latest_of_one_key as _),
        Rule::SentStays => (
            "deadline_of_what_went_out",
            policies::deadline_of_what_went_out as _,
        ),
        Rule::ExpiredIsPassedOver => ("deadline_of_a_row", policies::deadline_of_a_row as _),
        Rule::QuotaSparesResends => (
            "quota_never_refuses_a_resend",
            policies::resend_to_a_full_mailbox as _,
        ),
        Rule::DueHasOwnId => (
            "deferred_send_is_not_a_duplicate",
            policies::due_behind_a_later_one as _,
        ),
        Rule::GroupInOneStep => (
            "group_send_before_unicast",
            policies::group_send_before_unicast as _,
        ),
        Rule::PassedForLate => ("late_joiner", policies::late_joiner as _),
        _ => return None,
    };
    Some((story.0, story.1(variant)))
}
