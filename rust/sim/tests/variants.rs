//! The checker bites: without a rule of the bus some seed fails. `cargo test --release -p zmqgame-sim --features broken`.
#![cfg(feature = "broken")]

use zmqgame_core::bus::broken::Rule;
use zmqgame_sim::story::without;
use zmqgame_sim::variant::first_seed;

/// Seeds that notice the lack of a rule, those first that notice most.
const NOTICE: [u64; 11] = [
    30_000, 30_001, 30_002, 30_003, 30_015, 30_006, 30_013, 30_030, 30_037, 10_007, 10_028,
];
/// Where others are looked for when a change of the code has made those blind.
const MORE: [std::ops::Range<u64>; 2] = [10_000..10_060, 30_000..30_060];

fn is_missed(rule: Rule) -> bool {
    let notices = |seed: u64| first_seed(rule, seed..seed + 1).is_some();
    without(rule).is_some()
        || NOTICE.into_iter().any(notices)
        || MORE.into_iter().flatten().any(notices)
}

#[test]
fn every_rule_that_is_missed_is_missed_by_a_seed() {
    let silent: Vec<String> = Rule::ALL
        .iter()
        .filter(|(_, rule)| !Rule::HARMLESS.contains(rule))
        .filter(|(_, rule)| !is_missed(*rule))
        .map(|(number, rule)| format!("[{number}] {rule:?}"))
        .collect();
    assert!(silent.is_empty(), "no seed notices: {silent:?}");
}

/// Those of the worlds by hand alone: in a blink.
#[test]
fn worlds_by_hand_miss_their_rule() {
    let silent: Vec<String> = Rule::ALL
        .iter()
        .filter(|(number, rule)| *number >= 33 && *rule != Rule::BusyHolds)
        .filter(|(_, rule)| without(*rule).is_none())
        .map(|(number, rule)| format!("[{number}] {rule:?}"))
        .collect();
    assert!(silent.is_empty(), "no world by hand notices: {silent:?}");
}
