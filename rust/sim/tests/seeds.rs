//! A fixed set of seeds, each twice: every promise holds, and both runs take the same steps.

use zmqgame_sim::world::run;

#[test]
fn every_promise_holds_and_a_seed_replays() {
    let mut handled = 0;
    let seeds = (0..40).chain(10_000..10_040).chain(20_000..20_040);
    for seed in seeds.chain(30_000..30_080) {
        let verdict = run(seed, false);
        assert!(
            verdict.checker.violations.is_empty(),
            "seed {seed}: {:?}; replay: cargo run --release -p zmqgame-sim -- --seed {seed} --print",
            verdict.checker.violations.first()
        );
        assert_eq!(
            run(seed, false).trace,
            verdict.trace,
            "seed {seed} took other steps the second time"
        );
        handled += verdict.checker.handled_count;
    }
    assert!(
        handled > 100_000,
        "the seeds have to do something: {handled}"
    );
}

/// Seeds that once failed, and what they found.
#[test]
fn seeds_that_once_failed() {
    for (seed, found) in [
        (48, "a dropped logout was told to the client as done"),
        (
            255,
            "a refused message, resent, stood below the mark and was told stored",
        ),
        (
            29,
            "a busy message lost its place when the player's record was freed",
        ),
        (42, "group sends and unicasts held back each other for ever"),
        (109, "a refused one blocked its pair after a reconnect"),
        (
            702,
            "a busy group send that was then refused blocked its sender",
        ),
        (1622, "a copy of a refused message was accepted"),
        (
            10_001,
            "players with full cursors waited for each other's messages for ever",
        ),
        (
            10_029,
            "marks that stood for no row were kept for one, the next sender waited for ever",
        ),
        (
            10_187,
            "a repeat of what had gone out was stored behind another sender, and shown again",
        ),
        (
            10_689,
            "a repeat of what was being refused stood behind a later one, and was told stored",
        ),
        (
            10_875,
            "a unicast passed a group send that its sender held back",
        ),
        (
            20_085,
            "rows that a due batch of unknown outcome had made were left to the next login",
        ),
        (
            20_556,
            "an expired message was delivered after the clock was set back, and its node had handled a later one",
        ),
        (
            20_733,
            "a group send to a late joiner was called delivered, a later one of its sender was in the client's hands",
        ),
        (
            30_029,
            "a message with a policy passed what its sender had waiting for the end of the hold",
        ),
        (
            22_136,
            "a stored message, resent behind a new one that was refused, was told refused too",
        ),
        (
            25_361,
            "a refused deferred send took back what was in flight, its resend was told stored",
        ),
        (30_681, "the same of what waited again for its host"),
        (
            40_467,
            "by the checker: rows passed over by a clock that was set back before they were settled were shown after all",
        ),
        (
            41_489,
            "by the checker: rows past their time, deleted by the logout whose cursor was beyond them, were called lost",
        ),
        (
            42_043,
            "by the checker: an outcome written to a dead process was taken for one of its successor's",
        ),
    ] {
        let verdict = run(seed, false);
        assert!(
            verdict.checker.violations.is_empty(),
            "{found}: {:?}",
            verdict.checker.violations.first()
        );
    }
}
