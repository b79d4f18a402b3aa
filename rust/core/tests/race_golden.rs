//! Golden hashes: the same inputs give the same bits on any machine and in any version.
//!
//! A hash in `tests/vectors/race.txt` changes only with a deliberate change of the physics or of a
//! built-in car, and then old recordings no longer replay: say so in CHANGELOG.md. Never to make a
//! test pass. The Python tests check the same file against the release build.

use zmqgame_core::race::car::Car;
use zmqgame_core::race::state::Race;
use zmqgame_core::race::step::Input;

const GOLDEN: &str = include_str!("../../../tests/vectors/race.txt");

fn golden() -> Vec<(u64, u64)> {
    let lines = GOLDEN.lines().filter(|line| !line.starts_with('#'));
    let read = |line: &str| {
        let (frame, hash) = line.split_once(' ')?;
        Some((frame.parse().ok()?, u64::from_str_radix(hash, 16).ok()?))
    };
    lines
        .map(|line| read(line).expect("a frame and a hash"))
        .collect()
}

/// Inputs of a fixed rule that starts, spins, shifts up and down, and lifts.
fn input(frame: u64, number: u64) -> Input {
    let gear = if frame < 20 {
        0
    } else {
        1 + ((frame + 7 * number) % 400 / 70) as u8
    };
    let lifts = (frame + number).is_multiple_of(37);
    let throttle = if lifts {
        0
    } else {
        255 - (frame * number % 90) as u8
    };
    Input { gear, throttle }
}

#[test]
fn hashes_of_all_built_in_cars_are_golden() {
    let mut race = Race::new(Car::all_built_in(), 402.336, 50).unwrap();
    for frame in 0..=1000 {
        if let Some((_, hash)) = golden().into_iter().find(|&(at, _)| at == frame) {
            assert_eq!(race.hash(), hash, "frame {frame}: {:016x}", race.hash());
        }
        let inputs: Vec<Input> = (0..8).map(|number| input(frame, number)).collect();
        race.step(&inputs).unwrap();
    }
    assert!(
        race.states()
            .iter()
            .filter(|state| state.is_finished())
            .count()
            >= 4
    );
}
