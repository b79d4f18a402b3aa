//! The simulation as a program: seeds in, verdict out.

use std::process::ExitCode;
use std::time::Instant;
#[cfg(feature = "broken")]
use zmqgame_core::bus::broken::Rule;
use zmqgame_sim::classes::Classes;
use zmqgame_sim::world::{Verdict, run};

const HELP: &str = "\
zmqgame-sim: hubs, nodes, clients and a store under faults, one seed a run

usage: zmqgame-sim [--seed N [--print] | --seeds FIRST..END [--twice] | --variants FIRST..END]

  --seed N            one run, told in detail
  --print             every step and every message of it
  --json              the outcome of one run, or of a failing seed, as a JSON object on the last line
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
    println!("{}", verdict.checker.classes);
    for violation in verdict.checker.violations.iter().take(20) {
        println!(
            "  {} ms: {}: {}",
            violation.at_ms, violation.promise, violation.text
        );
    }
}

fn replay(seed: u64) -> String {
    format!("cargo run --release -p zmqgame-sim -- --seed {seed} --print")
}

fn tell_json(verdict: &Verdict) {
    println!(
        "{{\"seed\": {}, \"trace\": \"{:016x}\", \"steps\": {}, {}, \"violations\": {}, \"replay\": \"{}\"}}",
        verdict.seed,
        verdict.trace,
        verdict.steps,
        verdict.checker.classes,
        verdict.checker.violations.len(),
        replay(verdict.seed)
    );
}

/// The outcome of one seed.
fn one(verdict: &Verdict, json: bool) -> ExitCode {
    tell(verdict);
    let failed = !verdict.checker.violations.is_empty();
    if failed {
        println!("replay: {}", replay(verdict.seed));
    }
    if json {
        tell_json(verdict);
    }
    ExitCode::from(u8::from(failed))
}

fn all(first: u64, end: u64, twice: bool, json: bool) -> ExitCode {
    let began = Instant::now();
    let (mut messages, mut steps) = (0, 0);
    let mut classes = Classes::default();
    for seed in first..end {
        let verdict = run(seed, false);
        if !verdict.checker.violations.is_empty() {
            return one(&verdict, json);
        }
        if twice && run(seed, false).trace != verdict.trace {
            println!("seed {seed} took other steps the second time");
            return ExitCode::from(1);
        }
        messages += verdict.checker.handled_count;
        steps += verdict.steps;
        classes.add(&verdict.checker.classes);
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{{\"seeds\": {}, \"messages\": {messages}, \"steps\": {steps}, {classes}, \"messages_per_minute\": {:.0}, \"violations\": 0}}",
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
        let seed = zmqgame_sim::variant::first_seed(rule, first..end);
        let found = seed.map(|(seed, found)| (format!("seed {seed}"), found));
        let story = || zmqgame_sim::story::without(rule);
        let found = found.or_else(|| story().map(|(name, found)| (name.to_owned(), found)));
        match found {
            Some((by, found)) => println!(
                "[{number}] {name:<20} {by:<12} {}: {}",
                found.promise, found.text
            ),
            None if Rule::HARMLESS.contains(&rule) => {
                println!(
                    "[{number}] {name:<20} nothing: harmless, see rust/core/src/bus/broken.rs"
                );
            }
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
        .partition(|word| ["--twice", "--print", "--json"].contains(word));
    let has = |flag| flags.contains(&flag);
    let (twice, json) = (has("--twice"), has("--json"));
    match words[..] {
        ["--seed", seed] => match seed.parse() {
            Ok(seed) => one(&run(seed, has("--print")), json),
            Err(_) => usage(),
        },
        ["--seeds", seeds] => match range(seeds) {
            Some((first, end)) => all(first, end, twice, json),
            None => usage(),
        },
        #[cfg(feature = "broken")]
        ["--variants", seeds] => match range(seeds) {
            Some((first, end)) => variants(first, end),
            None => usage(),
        },
        [] => all(0, 200, twice, json),
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
