//! The checker bites: without a rule of the bus some seed fails. `cargo test --release -p zmqgame-sim --features broken`.
#![cfg(feature = "broken")]

use zmqgame_core::bus::broken::Rule;
use zmqgame_sim::story::without;
use zmqgame_sim::variant::first_seed;

/// Seeds that notice the lack of almost any rule.
const SEEDS: std::ops::Range<u64> = 10_000..10_029;

#[test]
fn every_rule_that_is_missed_is_missed_by_a_seed() {
    let silent: Vec<String> = Rule::ALL
        .iter()
        .filter(|(_, rule)| !Rule::HARMLESS.contains(rule))
        .filter(|(_, rule)| without(*rule).is_none() && first_seed(*rule, SEEDS).is_none())
        .map(|(number, rule)| format!("[{number}] {rule:?}"))
        .collect();
    assert!(silent.is_empty(), "no seed notices: {silent:?}");
}
