//! The worlds by hand of rules 33 to 40, with all rules: nothing is found.

use zmqgame_sim::story::policies;
use zmqgame_sim::variant::Variant;

/// Each is found out when its rule is taken away: `make sim-variants`.
#[test]
fn worlds_of_policies_times_and_groups_hold() {
    let whole = Variant::default();
    for story in [
        policies::policy_before_must_deliver,
        policies::policy_behind_a_queue,
        policies::latest_of_one_key,
        policies::deadline_of_what_went_out,
        policies::deadline_of_a_row,
        policies::resend_to_a_full_mailbox,
        policies::due_behind_a_later_one,
        policies::group_send_before_unicast,
        policies::late_joiner,
    ] {
        story(whole).end();
    }
}
