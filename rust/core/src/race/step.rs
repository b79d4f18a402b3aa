//! One step of one car: forces along the track, and the line.
//!
//! The engine is as fast as the wheels make it, except while the clutch slips (a start) or is open
//! (neutral, a change of gear). A tick is cut into sub-steps of at most 2.5 ms; speed takes the mean
//! of the accelerations at both ends (Heun) and way the mean of the speeds, which is exact for a
//! constant force.

use super::car::{AIR_DENSITY, Car, GRAVITY, SPIN_GRIP};
use crate::limits::MIN_RACE_SUBSTEPS_HZ;

/// What a player does in one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Input {
    /// 0 neutral, from 1 the gears. A gear that the car does not have changes nothing.
    pub gear: u8,
    /// 0 closed to 255 full.
    pub throttle: u8,
}

/// Where a car is and what it does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CarState {
    /// From the start, m.
    pub position_m: f64,
    /// Never backwards.
    pub speed_mps: f64,
    /// What the engine turns.
    pub rpm: f64,
    /// Without drive for this long still, because of a change of gear.
    pub shift_left_s: f64,
    /// The gear that is in, or goes in.
    pub gear: u8,
    /// The driven wheels spin.
    pub spinning: bool,
    /// From the start signal to the line, in microseconds; 0 until then.
    pub time_us: u64,
    /// Speed at the line, km/h; 0 until then.
    pub trap_kmh: f64,
}

impl CarState {
    /// A car at the start.
    pub fn at_start(car: &Car) -> Self {
        Self {
            rpm: car.idle_rpm,
            ..Self::default()
        }
    }

    /// Whether it has crossed the line.
    pub fn is_finished(&self) -> bool {
        self.time_us > 0
    }
}

/// Of its own speed, how much faster than the redline a lower gear may make the engine.
const OVER_REV: f64 = 1.1;
/// How hard a car brakes after the line.
const BRAKE_MPS2: f64 = 0.6 * GRAVITY;
/// How fast a free engine changes its speed, rpm/s.
const FREE_REV_RPM_S: f64 = 18_000.0;

/// Sub-steps of a tick: at least 400 a second.
pub fn substeps(tick_hz: u32) -> u32 {
    MIN_RACE_SUBSTEPS_HZ.div_ceil(tick_hz)
}

/// Moves a car through the tick that starts `frame / tick_hz` seconds after the signal.
/// Returns whether it crossed the line in it.
pub fn step_car(
    car: &Car,
    state: &mut CarState,
    input: Input,
    frame: u64,
    tick_hz: u32,
    distance_m: f64,
) -> bool {
    let count = substeps(tick_hz);
    let step_s = 1.0 / (f64::from(tick_hz) * f64::from(count));
    let input = if state.is_finished() {
        Input {
            throttle: 0,
            ..input
        }
    } else {
        input
    };
    change_gear(car, state, input.gear);
    let mut crossed = false;
    for part in 0..count {
        let before = *state;
        move_on(car, state, f64::from(input.throttle) / 255.0, step_s);
        if !state.is_finished() && state.position_m >= distance_m {
            let start_s = frame as f64 / f64::from(tick_hz) + f64::from(part) * step_s;
            cross_line(state, &before, start_s, step_s, distance_m);
            crossed = true;
        }
    }
    crossed
}

/// A standing car has its gear at once; a rolling one is without drive for the time of a shift,
/// from neutral also, so that neutral is no way around it.
fn change_gear(car: &Car, state: &mut CarState, gear: u8) {
    let exists = usize::from(gear) <= car.gears.len();
    if gear == state.gear || !exists {
        return;
    }
    if car.rpm_at(state.speed_mps, gear) > car.redline_rpm * OVER_REV {
        return;
    }
    state.gear = gear;
    let stands = state.speed_mps == 0.0;
    state.shift_left_s = if stands || gear == 0 {
        0.0
    } else {
        car.shift_ms / 1000.0
    };
}

fn move_on(car: &Car, state: &mut CarState, throttle: f64, step_s: f64) {
    let drives = state.gear > 0 && state.shift_left_s <= 0.0;
    let speed = state.speed_mps;
    let (first, spinning) = acceleration(car, state, speed, throttle, drives);
    let guess = (speed + first * step_s).max(0.0);
    let (second, _) = acceleration(car, state, guess, throttle, drives);
    let next = (speed + (first + second) / 2.0 * step_s).max(0.0);
    state.position_m += (speed + next) / 2.0 * step_s;
    state.speed_mps = next;
    state.spinning = spinning;
    state.rpm = if drives {
        drive_rpm(car, next, state.gear, throttle)
    } else {
        free_rpm(car, state, throttle, step_s)
    };
    state.shift_left_s = (state.shift_left_s - step_s).max(0.0);
}

/// Engine speed in gear: that of the wheels, or what the slipping clutch lets the throttle hold.
fn drive_rpm(car: &Car, speed: f64, gear: u8, throttle: f64) -> f64 {
    let held = car.idle_rpm + throttle * (car.launch_rpm - car.idle_rpm);
    car.rpm_at(speed, gear).max(held)
}

/// Engine speed with an open clutch: towards what the throttle wants, or the next gear needs.
fn free_rpm(car: &Car, state: &CarState, throttle: f64, step_s: f64) -> f64 {
    let goal = if state.gear > 0 {
        drive_rpm(car, state.speed_mps, state.gear, throttle)
    } else {
        car.idle_rpm + throttle * (car.redline_rpm - car.idle_rpm)
    };
    let most = FREE_REV_RPM_S * step_s;
    state.rpm + (goal - state.rpm).clamp(-most, most)
}

/// The force that engine and gears ask of the wheels.
fn demand_n(car: &Car, speed: f64, gear: u8, throttle: f64) -> f64 {
    let rpm = drive_rpm(car, speed, gear, throttle);
    let push = if rpm < car.redline_rpm {
        car.torque_nm(rpm) * throttle
    } else {
        0.0
    };
    let closed = car.rpm_at(speed, gear) > car.idle_rpm;
    let brake = if closed {
        car.engine_brake_nm * (1.0 - throttle)
    } else {
        0.0
    };
    (push * car.efficiency - brake) * car.ratio(gear) / car.wheel_radius_m
}

/// Acceleration at a speed, and whether the wheels spin.
fn acceleration(
    car: &Car,
    state: &CarState,
    speed: f64,
    throttle: f64,
    drives: bool,
) -> (f64, bool) {
    let demand = if drives {
        demand_n(car, speed, state.gear, throttle)
    } else {
        0.0
    };
    let grip = car.grip_n();
    let spinning = demand > grip;
    let drive = if spinning {
        grip * SPIN_GRIP
    } else {
        demand.max(-grip)
    };
    let air = 0.5 * AIR_DENSITY * car.drag_area_m2 * speed * speed;
    let rolling = car.rolling * car.mass_kg * GRAVITY;
    let brake = if state.is_finished() { BRAKE_MPS2 } else { 0.0 };
    ((drive - air - rolling) / car.mass_kg - brake, spinning)
}

/// The largest throttle at which the wheels do not spin, as a good driver has it.
pub fn grip_throttle(car: &Car, state: &CarState) -> u8 {
    let grip = car.grip_n();
    let spins = |throttle: u8| {
        demand_n(
            car,
            state.speed_mps,
            state.gear,
            f64::from(throttle) / 255.0,
        ) > grip
    };
    (0..=255)
        .rev()
        .find(|&throttle| !spins(throttle))
        .unwrap_or(0)
}

/// Time and speed at the line, within the sub-step in which it was crossed: at the sub-step's mean
/// acceleration, `way = v t + a t² / 2`, solved in the form that is stable for a small `a`.
fn cross_line(state: &mut CarState, before: &CarState, start_s: f64, step_s: f64, distance_m: f64) {
    let way = distance_m - before.position_m;
    let mean = (state.speed_mps - before.speed_mps) / step_s;
    let speed = (before.speed_mps * before.speed_mps + 2.0 * mean * way)
        .max(0.0)
        .sqrt();
    let rest_s = (2.0 * way / (before.speed_mps + speed)).clamp(0.0, step_s);
    state.time_us = (((start_s + rest_s) * 1e6).round() as u64).max(1);
    state.trap_kmh = speed * 3.6;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::race::car::Driven;

    const FULL: Input = Input {
        gear: 1,
        throttle: 255,
    };

    /// A car with one gear, a flat torque curve and nothing else: a constant force.
    fn constant(force_n: f64) -> Car {
        Car {
            torque: vec![(0.0, force_n)],
            gears: vec![1.0],
            final_drive: 1.0,
            efficiency: 1.0,
            wheel_radius_m: 1.0,
            idle_rpm: 100.0,
            launch_rpm: 100.0,
            redline_rpm: 30_000.0,
            mass_kg: 1000.0,
            drag_area_m2: 0.0,
            rolling: 0.0,
            grip: 5.0,
            driven: Driven::All,
            ..Car::built_in("pebble").unwrap()
        }
    }

    fn drive(car: &Car, distance_m: f64, frames: u64) -> CarState {
        let mut state = CarState::at_start(car);
        for frame in 0..frames {
            step_car(car, &mut state, FULL, frame, 50, distance_m);
            if state.is_finished() {
                break;
            }
        }
        state
    }

    #[test]
    fn a_constant_force_gives_the_time_and_speed_of_the_textbook() {
        let state = drive(&constant(5000.0), 400.0, 10_000);
        // 5 m/s² over 400 m: t = sqrt(2 s / a), v = sqrt(2 a s).
        assert_eq!(state.time_us, (160f64.sqrt() * 1e6).round() as u64);
        assert!((state.trap_kmh - 4000f64.sqrt() * 3.6).abs() < 1e-9);
    }

    #[test]
    fn air_brings_a_terminal_speed_along_the_textbooks_curve() {
        let car = Car {
            drag_area_m2: 2.0,
            ..constant(4900.0)
        };
        let terminal = (4900.0 / AIR_DENSITY).sqrt();
        let state = drive(&car, f64::INFINITY, 50 * 600);
        assert!(
            (state.speed_mps - terminal).abs() < 1e-6,
            "{}",
            state.speed_mps
        );
        // v(t) = vt tanh(a t / vt)
        let state = drive(&car, f64::INFINITY, 50 * 10);
        let expected = terminal * (4.9 * 10.0 / terminal).tanh();
        assert!((state.speed_mps / expected - 1.0).abs() < 1e-6);
    }

    #[test]
    fn rolling_resistance_holds_a_car_that_is_not_driven() {
        let car = Car {
            rolling: 0.02,
            ..constant(100.0)
        };
        assert_eq!(drive(&car, 400.0, 500).position_m, 0.0);
        assert!(
            drive(
                &Car {
                    rolling: 0.01,
                    ..car
                },
                400.0,
                500
            )
            .position_m
                > 0.0
        );
    }

    #[test]
    fn more_force_than_grip_spins_the_wheels_and_drives_less() {
        let mut car = constant(12_000.0);
        car.grip = 1.0;
        let mut state = CarState::at_start(&car);
        step_car(&car, &mut state, FULL, 0, 50, 400.0);
        assert!(state.spinning);
        let throttle = grip_throttle(&car, &state);
        assert_eq!(throttle, (255.0 * GRAVITY * 1000.0 / 12_000.0) as u8);
        let mut careful = CarState::at_start(&car);
        step_car(
            &car,
            &mut careful,
            Input { gear: 1, throttle },
            0,
            50,
            400.0,
        );
        assert!(!careful.spinning && careful.speed_mps > state.speed_mps);
    }

    #[test]
    fn the_limiter_bounds_the_speed_of_a_gear() {
        let car = Car::built_in("pebble").unwrap();
        let state = drive(&car, f64::INFINITY, 50 * 60);
        assert!((car.rpm_at(state.speed_mps, 1) / car.redline_rpm - 1.0).abs() < 0.01);
    }

    #[test]
    fn a_change_of_gear_costs_its_time_and_neutral_is_no_way_around() {
        let car = Car::built_in("pebble").unwrap();
        let mut state = drive(&car, 400.0, 100);
        let speed = state.speed_mps;
        step_car(
            &car,
            &mut state,
            Input {
                gear: 2,
                throttle: 255,
            },
            100,
            50,
            400.0,
        );
        assert!(state.shift_left_s > 0.2 && state.speed_mps < speed);
        let mut tricky = drive(&car, 400.0, 99);
        step_car(
            &car,
            &mut tricky,
            Input {
                gear: 0,
                throttle: 255,
            },
            99,
            50,
            400.0,
        );
        step_car(
            &car,
            &mut tricky,
            Input {
                gear: 2,
                throttle: 255,
            },
            100,
            50,
            400.0,
        );
        assert!(tricky.shift_left_s > 0.2);
    }

    #[test]
    fn impossible_gears_change_nothing() {
        let car = Car::built_in("pebble").unwrap();
        let mut state = drive(&car, f64::INFINITY, 50 * 60);
        state.gear = 5;
        state.speed_mps = 50.0;
        for gear in [6, 255, 1, 2] {
            step_car(
                &car,
                &mut state,
                Input { gear, throttle: 0 },
                0,
                50,
                f64::INFINITY,
            );
            assert_eq!(state.gear, 5);
        }
    }

    #[test]
    fn a_finished_car_keeps_its_time_and_stops() {
        let car = Car::built_in("meteor").unwrap();
        let mut state = drive(&car, 20.0, 500);
        let (time_us, trap_kmh) = (state.time_us, state.trap_kmh);
        assert!(time_us > 1_000_000);
        for frame in 500..1500 {
            assert!(!step_car(&car, &mut state, FULL, frame, 50, 20.0));
        }
        assert_eq!(
            (state.time_us, state.trap_kmh, state.speed_mps),
            (time_us, trap_kmh, 0.0)
        );
    }

    #[test]
    fn a_tick_rate_changes_the_result_little() {
        let car = Car::built_in("volt").unwrap();
        let at = |tick_hz: u32| {
            let mut state = CarState::at_start(&car);
            (0..u64::from(tick_hz) * 60)
                .any(|frame| step_car(&car, &mut state, FULL, frame, tick_hz, 402.336));
            state.time_us as f64
        };
        assert!((at(50) / at(1000) - 1.0).abs() < 1e-4);
    }
}
