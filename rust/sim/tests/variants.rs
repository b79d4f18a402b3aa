//! The checker bites: without a rule of the bus some seed fails. `cargo test --release -p zmqgame-sim --features broken`.
#![cfg(feature = "broken")]

use zmqgame_core::bus::broken::Rule;
use zmqgame_sim::story::without;
use zmqgame_sim::variant::first_seed;

/// Seeds that notice the lack of almost any rule.
const SEEDS: std::ops::Range<u64> = 10_000..10_029;
/// Those that notice the rest: 36, 18, 13.
const MORE: [u64; 3] = [10_032, 10_058, 10_140];

fn is_missed(rule: Rule) -> bool {
    without(rule).is_some()
        || first_seed(rule, SEEDS).is_some()
        || MORE
            .iter()
            .any(|seed| first_seed(rule, *seed..seed + 1).is_some())
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
