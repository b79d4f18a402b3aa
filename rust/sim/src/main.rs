//! The simulation as a program: seeds in, verdict out.

use std::process::ExitCode;
use std::time::Instant;
#[cfg(feature = "broken")]
use zmqgame_core::bus::broken::Rule;
use zmqgame_sim::world::{Verdict, run};

const HELP: &str = "\
zmqgame-sim: hubs, nodes, clients and a store under faults, one seed a run

usage: zmqgame-sim [--seed N [--print] | --seeds FIRST..END [--twice] | --variants FIRST..END]

  --seed N            one run, told in detail
  --print             every step and every message of it
  --seeds FIRST..END  that many runs; stops at the first seed that fails (default 0..200)
  --twice             every seed runs twice and must take the same steps
  --variants FIRST..END  the first of these seeds that fails without a rule of the bus, for each rule
                      (needs a build with --features broken)

Exit 0: every promise held. Exit 1: a seed failed; the command that replays it is printed.
";

fn tell(verdict: &Verdict) {
    println!("{:#?}", verdict.knobs);
    println!(
        "seed {} trace {:016x} steps {} virtual {} ms sent {} handled {} receipts {:?}",
        verdict.seed,
        verdict.trace,
        verdict.steps,
        verdict.ended_ms,
        verdict.checker.sent_count(),
        verdict.checker.handled_count,
        verdict.checker.receipts,
    );
    for violation in verdict.checker.violations.iter().take(20) {
        println!(
            "  {} ms: {}: {}",
            violation.at_ms, violation.promise, violation.text
        );
    }
}

fn fails(verdict: &Verdict) -> ExitCode {
    tell(verdict);
    println!(
        "replay: cargo run --release -p zmqgame-sim -- --seed {}",
        verdict.seed
    );
    ExitCode::from(1)
}

fn all(first: u64, end: u64, twice: bool) -> ExitCode {
    let began = Instant::now();
    let (mut messages, mut steps) = (0, 0);
    for seed in first..end {
        let verdict = run(seed, false);
        if !verdict.checker.violations.is_empty() {
            return fails(&verdict);
        }
        if twice && run(seed, false).trace != verdict.trace {
            println!("seed {seed} took other steps the second time");
            return ExitCode::from(1);
        }
        messages += verdict.checker.handled_count;
        steps += verdict.steps;
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{{\"seeds\": {}, \"messages\": {messages}, \"steps\": {steps}, \"messages_per_minute\": {:.0}, \"violations\": 0}}",
        end - first,
        messages as f64 / seconds * 60.0
    );
    ExitCode::SUCCESS
}

/// Each rule of the bus taken away: which seed notices, and by which promise.
#[cfg(feature = "broken")]
fn variants(first: u64, end: u64) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for (number, rule) in Rule::ALL {
        let name = format!("{rule:?}");
        match zmqgame_sim::variant::first_seed(rule, first..end) {
            Some((seed, found)) => println!(
                "[{number}] {name:<20} seed {seed:<6} {}: {}",
                found.promise, found.text
            ),
            None => {
                println!("[{number}] {name:<20} no seed of {first}..{end}");
                code = ExitCode::from(1);
            }
        }
    }
    code
}

fn range(text: &str) -> Option<(u64, u64)> {
    let (first, end) = text.split_once("..")?;
    Some((first.parse().ok()?, end.parse().ok()?))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (flags, words): (Vec<&str>, Vec<&str>) = words
        .into_iter()
        .partition(|word| ["--twice", "--print"].contains(word));
    match words[..] {
        ["--seed", seed] => match seed.parse() {
            Ok(seed) => {
                let verdict = run(seed, !flags.is_empty());
                if !verdict.checker.violations.is_empty() {
                    return fails(&verdict);
                }
                tell(&verdict);
                ExitCode::SUCCESS
            }
            Err(_) => usage(),
        },
        ["--seeds", seeds] => match range(seeds) {
            Some((first, end)) => all(first, end, !flags.is_empty()),
            None => usage(),
        },
        #[cfg(feature = "broken")]
        ["--variants", seeds] => match range(seeds) {
            Some((first, end)) => variants(first, end),
            None => usage(),
        },
        [] => all(0, 200, !flags.is_empty()),
        ["--help"] => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprint!("{HELP}");
    ExitCode::from(2)
}
