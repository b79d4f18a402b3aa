//! On stable: every seed and found case, and a seeded run of mutations of them.

use std::path::PathBuf;

use zmqgame_fuzz_bodies::{TARGETS, Target, check, kept};
use zmqgame_sim::prng::Prng;

/// Mutations of each target: about a quarter of a second.
const MUTATIONS: usize = 1_500;
/// What a mutation may grow to.
const MOST_BYTES: usize = 4_096;

fn found(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/vectors/fuzz")
        .join(target.name);
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut cases: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("a file").path();
            (
                path.display().to_string(),
                std::fs::read(path).expect("a case"),
            )
        })
        .collect();
    cases.sort();
    cases
}

#[test]
fn seeds_and_found_cases_hold() {
    for target in &TARGETS {
        for seed in (target.seeds)() {
            check(target.name, &seed);
        }
        let kept = kept(target.name);
        assert!(kept.len() >= 10, "{}: no corpus", target.name);
        for input in kept {
            check(target.name, &input);
        }
        for (path, case) in found(target) {
            println!("{path}");
            check(target.name, &case);
        }
        check(target.name, b"");
    }
}

#[test]
fn found_cases_belong_to_a_target() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/fuzz");
    for entry in std::fs::read_dir(folder).expect("the cases") {
        let entry = entry.expect("a folder");
        let name = entry.file_name().into_string().expect("a name");
        let known = TARGETS.iter().any(|target| target.name == name);
        assert!(known || entry.path().is_file(), "{name}");
    }
}

fn mutate(prng: &mut Prng, seed: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..prng.between(1, 4) {
        let at = prng.index(bytes.len().max(1)).min(bytes.len());
        let to = (at + prng.index(32)).min(bytes.len());
        match prng.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << prng.below(8),
            1 if at < bytes.len() => bytes[at] = prng.bits() as u8,
            2 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][prng.index(5)],
            3 => drop(bytes.drain(at..to)),
            4 => {
                let piece = bytes[at..to].to_vec();
                drop(bytes.splice(at..at, piece));
            }
            5 => bytes.truncate(at),
            6 if !other.is_empty() => {
                let from = prng.index(other.len());
                let until = (from + prng.index(64)).min(other.len());
                drop(bytes.splice(at..at, other[from..until].iter().copied()));
            }
            _ => bytes.insert(at, prng.bits() as u8),
        }
    }
    bytes.truncate(MOST_BYTES);
    bytes
}

#[test]
fn seeded_mutations_hold() {
    for (number, target) in TARGETS.iter().enumerate() {
        let mut prng = Prng::new(number as u64);
        let mut seeds = (target.seeds)();
        seeds.extend(kept(target.name));
        seeds.extend(found(target).into_iter().map(|(_, case)| case));
        for round in 0..MUTATIONS {
            let seed = &seeds[prng.index(seeds.len())];
            let other = &seeds[prng.index(seeds.len())];
            let bytes = mutate(&mut prng, seed, other);
            let outcome = std::panic::catch_unwind(|| check(target.name, &bytes));
            if outcome.is_err() {
                let path = std::env::temp_dir().join(format!("{}-{round}", target.name));
                std::fs::write(&path, &bytes).expect("room for a case");
                panic!("{} round {round}: case in {}", target.name, path.display());
            }
        }
    }
}
