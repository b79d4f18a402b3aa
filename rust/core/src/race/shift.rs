//! How well a car can be driven: the rpm at which to change each gear for the best time.
//!
//! The driver never lets the wheels spin and changes up at an rpm of its own for each gear. The
//! search begins with all changes at the redline and improves one gear after another, first over
//! the whole range and then in ever finer steps around the best, until no step helps. It drives
//! the real physics each time, so what it finds can be driven.

use super::car::Car;
use super::state::{Race, RaceError};
use super::step::{Input, grip_throttle};
use crate::limits::MAX_SHIFT_RUN_S;

/// A car's best run.
#[derive(Clone, Debug, PartialEq)]
pub struct BestRun {
    /// From the signal to the line, in microseconds.
    pub time_us: u64,
    /// Speed at the line.
    pub trap_kmh: f64,
    /// For each change up that was made: where and how.
    pub shifts: Vec<Shift>,
}

/// One change up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shift {
    /// Into this gear.
    pub gear: u8,
    /// What the engine turned.
    pub rpm: f64,
    /// How fast the car was.
    pub speed_kmh: f64,
    /// How far it was.
    pub position_m: f64,
    /// How long after the signal.
    pub time_ms: f64,
}

/// One point of a run, for drawing it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// After the signal.
    pub time_ms: f64,
    /// How far.
    pub position_m: f64,
    /// How fast.
    pub speed_kmh: f64,
    /// What the engine turned.
    pub rpm: f64,
    /// In which gear.
    pub gear: u8,
}

/// Drives a car with one shift rpm a gear. `None` if it does not reach the line in time.
pub fn drive(
    car: &Car,
    shift_rpm: &[f64],
    distance_m: f64,
    tick_hz: u32,
    mut watch: impl FnMut(Sample),
) -> Result<Option<BestRun>, RaceError> {
    let mut race = Race::new(vec![car.clone()], distance_m, tick_hz)?;
    let (mut gear, mut shifts) = (1, Vec::new());
    for frame in 0..u64::from(MAX_SHIFT_RUN_S) * u64::from(tick_hz) {
        let state = race.states()[0];
        let time_ms = frame as f64 * 1000.0 / f64::from(tick_hz);
        let (speed_kmh, position_m) = (state.speed_mps * 3.6, state.position_m);
        watch(Sample {
            time_ms,
            position_m,
            speed_kmh,
            rpm: state.rpm,
            gear,
        });
        let wanted = shift_rpm
            .get(usize::from(gear) - 1)
            .copied()
            .unwrap_or(f64::INFINITY);
        let last = usize::from(gear) == car.gears.len();
        if !last && state.gear == gear && state.shift_left_s == 0.0 && state.rpm >= wanted {
            gear += 1;
            shifts.push(Shift {
                gear,
                rpm: state.rpm,
                speed_kmh,
                position_m,
                time_ms,
            });
        }
        let mut ahead = state;
        ahead.gear = gear;
        let throttle = grip_throttle(car, &ahead);
        if !race.step(&[Input { gear, throttle }])?.is_empty() {
            let end = race.states()[0];
            return Ok(Some(BestRun {
                time_us: end.time_us,
                trap_kmh: end.trap_kmh,
                shifts,
            }));
        }
    }
    Ok(None)
}

/// Searches the best run. `None` if the car does not reach the line in time.
pub fn best_run(
    car: &Car,
    distance_m: f64,
    tick_hz: u32,
) -> Result<Option<(BestRun, Vec<f64>)>, RaceError> {
    let gears = car.gears.len();
    // Just under the limiter, which a tick may otherwise jump over.
    let mut rpm = vec![car.redline_rpm * 0.985; gears.saturating_sub(1)];
    let time = |rpm: &[f64]| -> Result<u64, RaceError> {
        Ok(drive(car, rpm, distance_m, tick_hz, |_| ())?.map_or(u64::MAX, |run| run.time_us))
    };
    let mut best_us = time(&rpm)?;
    if best_us == u64::MAX {
        // Not in three minutes with the most that every gear gives: no shifting helps.
        return Ok(None);
    }
    let low = car.launch_rpm.max(car.redline_rpm * 0.4);
    let span = car.redline_rpm * 0.995 - low;
    for round in 0..4 {
        let before_us = best_us;
        for gear in 0..rpm.len() {
            let (around, width) = (rpm[gear], span / f64::from(1u32 << (2 * round)));
            for part in 0..=16u32 {
                let offset = width * (f64::from(part) / 16.0 - 0.5);
                let centre = if round == 0 { low + span / 2.0 } else { around };
                let old =
                    std::mem::replace(&mut rpm[gear], (centre + offset).clamp(low, low + span));
                let tried_us = time(&rpm)?;
                if tried_us < best_us {
                    best_us = tried_us;
                } else {
                    rpm[gear] = old;
                }
            }
        }
        if best_us == before_us && round > 1 {
            break;
        }
    }
    Ok(drive(car, &rpm, distance_m, tick_hz, |_| ())?.map(|run| (run, rpm)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::race::car::Class;

    const QUARTER_MILE_M: f64 = 402.336;

    #[test]
    fn every_built_in_car_is_in_the_class_of_its_best_time() {
        for car in Car::all_built_in() {
            let (run, _) = best_run(&car, QUARTER_MILE_M, 50).unwrap().unwrap();
            let line = format!(
                "{} {} us {:.1} km/h {:?}",
                car.name, run.time_us, run.trap_kmh, run.shifts
            );
            assert_eq!(Class::of_quarter_mile(run.time_us), car.class, "{line}");
        }
    }

    #[test]
    fn the_best_run_is_no_worse_than_simple_ones() {
        let car = Car::built_in("stallion").unwrap();
        let (best, rpm) = best_run(&car, QUARTER_MILE_M, 50).unwrap().unwrap();
        assert!(best.shifts.len() >= 2 && rpm.len() == 5);
        for share in [0.5, 0.7, 0.8, 0.9, 0.95, 0.985] {
            let simple = drive(
                &car,
                &[car.redline_rpm * share; 5],
                QUARTER_MILE_M,
                50,
                |_| (),
            );
            assert!(
                simple
                    .unwrap()
                    .is_none_or(|run| run.time_us >= best.time_us)
            );
        }
    }

    #[test]
    fn a_weak_top_end_is_left_early() {
        let mut car = Car::built_in("stallion").unwrap();
        car.torque = vec![
            (1000.0, 500.0),
            (4000.0, 600.0),
            (5000.0, 250.0),
            (7300.0, 80.0),
        ];
        car.shift_ms = 20.0;
        let (best, _) = best_run(&car, QUARTER_MILE_M, 50).unwrap().unwrap();
        assert!(
            best.shifts.iter().all(|shift| shift.rpm < 5700.0),
            "{:?}",
            best.shifts
        );
    }

    #[test]
    fn a_car_that_cannot_arrive_has_no_best_run() {
        let mut car = Car::built_in("pebble").unwrap();
        car.torque = vec![(1000.0, 0.0)];
        assert_eq!(best_run(&car, QUARTER_MILE_M, 50), Ok(None));
    }
}
