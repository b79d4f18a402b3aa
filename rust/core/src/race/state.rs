//! A whole race: cars on a track of one length, one tick after another.
//!
//! A snapshot is the whole state in bytes, little-endian: version u16, cars u16, tick_hz u32,
//! distance f64, frame u64, fingerprint of the cars u64, then for each car position, speed, rpm,
//! shift left and trap speed (f64 each), time u64, gear u8, spinning u8. The hash of a frame is the
//! hash of its snapshot, so two races with the same hash go on in the same way.

use std::fmt;

use super::car::{Car, CarError};
use super::step::{CarState, Input, step_car};
use crate::limits::{MAX_RACE_CARS, MAX_RACE_DISTANCE_M, MAX_RACE_TICK_HZ, MIN_RACE_TICK_HZ};

const VERSION: u16 = 1;
const HEAD_BYTES: usize = 2 + 2 + 4 + 8 + 8 + 8;
const CAR_BYTES: usize = 5 * 8 + 8 + 2;

/// Why a race is refused, or bytes for it.
#[derive(Clone, Debug, PartialEq)]
pub enum RaceError {
    /// This car (by number) is not valid.
    Car(usize, CarError),
    /// A number is outside its range.
    Range {
        /// Which number.
        what: &'static str,
        /// The least that is allowed.
        low: f64,
        /// The most that is allowed.
        high: f64,
        /// What it is.
        value: f64,
    },
    /// Not as many bytes or inputs as this race needs.
    Length {
        /// How many it needs.
        need: usize,
        /// How many there are.
        value: usize,
    },
    /// A snapshot of another version, other cars, another track or another tick.
    OtherRace,
    /// A snapshot with a value that no race can have.
    Broken,
}

impl fmt::Display for RaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Car(number, error) => write!(f, "car {number}: {error}"),
            Self::Range {
                what,
                low,
                high,
                value,
            } => {
                write!(f, "{what} is {value}, not within {low} to {high}")
            }
            Self::Length { need, value } => write!(f, "{need} bytes are needed, not {value}"),
            Self::OtherRace => f.write_str("the snapshot is of another race"),
            Self::Broken => f.write_str("the snapshot has values that no race can have"),
        }
    }
}

impl std::error::Error for RaceError {}

/// A race under way.
#[derive(Clone, Debug)]
pub struct Race {
    cars: Vec<Car>,
    states: Vec<CarState>,
    distance_m: f64,
    tick_hz: u32,
    frame: u64,
    fingerprint: u64,
}

fn range(what: &'static str, value: f64, low: f64, high: f64) -> Result<(), RaceError> {
    // Not `<` and `>`: a value that is not a number must fail.
    if value >= low && value <= high {
        return Ok(());
    }
    Err(RaceError::Range {
        what,
        low,
        high,
        value,
    })
}

impl Race {
    /// Cars at the start.
    pub fn new(cars: Vec<Car>, distance_m: f64, tick_hz: u32) -> Result<Self, RaceError> {
        range(
            "the number of cars",
            cars.len() as f64,
            1.0,
            MAX_RACE_CARS as f64,
        )?;
        range("distance_m", distance_m, 1.0, MAX_RACE_DISTANCE_M)?;
        let (low, high) = (f64::from(MIN_RACE_TICK_HZ), f64::from(MAX_RACE_TICK_HZ));
        range("tick_hz", f64::from(tick_hz), low, high)?;
        for (number, car) in cars.iter().enumerate() {
            car.check().map_err(|error| RaceError::Car(number, error))?;
        }
        let states = cars.iter().map(CarState::at_start).collect();
        let fingerprint = fingerprint(&cars);
        Ok(Self {
            cars,
            states,
            distance_m,
            tick_hz,
            frame: 0,
            fingerprint,
        })
    }

    /// The cars, by number.
    pub fn cars(&self) -> &[Car] {
        &self.cars
    }

    /// What each car does, by number.
    pub fn states(&self) -> &[CarState] {
        &self.states
    }

    /// Ticks since the signal.
    pub fn frame(&self) -> u64 {
        self.frame
    }

    /// Whether every car has crossed the line.
    pub fn is_finished(&self) -> bool {
        self.states.iter().all(CarState::is_finished)
    }

    /// One tick with an input for each car; the numbers of those that crossed the line in it.
    pub fn step(&mut self, inputs: &[Input]) -> Result<Vec<usize>, RaceError> {
        if inputs.len() != self.cars.len() {
            return Err(RaceError::Length {
                need: self.cars.len(),
                value: inputs.len(),
            });
        }
        let mut crossed = Vec::new();
        for (number, &input) in inputs.iter().enumerate() {
            let (car, state) = (&self.cars[number], &mut self.states[number]);
            if step_car(car, state, input, self.frame, self.tick_hz, self.distance_m) {
                crossed.push(number);
            }
        }
        self.frame += 1;
        Ok(crossed)
    }

    /// One tick from two bytes a car: gear, throttle.
    pub fn step_bytes(&mut self, inputs: &[u8]) -> Result<Vec<usize>, RaceError> {
        let need = self.cars.len() * 2;
        if inputs.len() != need {
            return Err(RaceError::Length {
                need,
                value: inputs.len(),
            });
        }
        let input = |pair: &[u8]| Input {
            gear: pair[0],
            throttle: pair[1],
        };
        self.step(&inputs.chunks_exact(2).map(input).collect::<Vec<_>>())
    }

    /// The state in bytes.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_BYTES + CAR_BYTES * self.cars.len());
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(self.cars.len() as u16).to_le_bytes());
        out.extend_from_slice(&self.tick_hz.to_le_bytes());
        out.extend_from_slice(&self.distance_m.to_bits().to_le_bytes());
        out.extend_from_slice(&self.frame.to_le_bytes());
        out.extend_from_slice(&self.fingerprint.to_le_bytes());
        for state in &self.states {
            write_state(state, &mut out);
        }
        out
    }

    /// Goes on from a snapshot of a race with the same cars, track and tick. On error nothing changes.
    pub fn restore(&mut self, snapshot: &[u8]) -> Result<(), RaceError> {
        let need = HEAD_BYTES + CAR_BYTES * self.cars.len();
        if snapshot.len() != need {
            return Err(RaceError::Length {
                need,
                value: snapshot.len(),
            });
        }
        let (head, rest) = snapshot.split_at(HEAD_BYTES);
        let own = self.snapshot();
        // All of the head but the frame must be that of this race.
        if head[..16] != own[..16] || head[24..] != own[24..HEAD_BYTES] {
            return Err(RaceError::OtherRace);
        }
        let states: Option<Vec<CarState>> = rest
            .chunks_exact(CAR_BYTES)
            .zip(&self.cars)
            .map(|(bytes, car)| read_state(bytes, car))
            .collect();
        self.states = states.ok_or(RaceError::Broken)?;
        self.frame = u64_at(head, 16);
        Ok(())
    }

    /// The hash of the whole state: the same on every machine.
    pub fn hash(&self) -> u64 {
        hash(&self.snapshot())
    }
}

fn write_state(state: &CarState, out: &mut Vec<u8>) {
    let CarState {
        position_m,
        speed_mps,
        rpm,
        shift_left_s,
        gear,
        spinning,
        time_us,
        trap_kmh,
    } = *state;
    for number in [position_m, speed_mps, rpm, shift_left_s, trap_kmh] {
        out.extend_from_slice(&number.to_bits().to_le_bytes());
    }
    out.extend_from_slice(&time_us.to_le_bytes());
    out.extend_from_slice(&[gear, u8::from(spinning)]);
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn read_state(bytes: &[u8], car: &Car) -> Option<CarState> {
    // No race has a number outside this: twice the fastest way to the end of the longest track.
    let number = |place: usize| {
        let value = f64::from_bits(u64_at(bytes, place * 8));
        (value.is_sign_positive() && value <= 1e9).then_some(value)
    };
    let (gear, spinning) = (bytes[CAR_BYTES - 2], bytes[CAR_BYTES - 1]);
    if usize::from(gear) > car.gears.len() || spinning > 1 {
        return None;
    }
    Some(CarState {
        position_m: number(0)?,
        speed_mps: number(1)?,
        rpm: number(2)?,
        shift_left_s: number(3)?,
        trap_kmh: number(4)?,
        time_us: u64_at(bytes, 40),
        gear,
        spinning: spinning == 1,
    })
}

/// FNV-1a, 64 bits: short, and defined byte by byte, so that any language can repeat it.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A number that changes with any field of any car.
fn fingerprint(cars: &[Car]) -> u64 {
    let mut bytes = Vec::new();
    for car in cars {
        bytes.extend_from_slice(&(car.name.len() as u64).to_le_bytes());
        bytes.extend_from_slice(car.name.as_bytes());
        bytes.extend_from_slice(&[
            car.driven as u8,
            car.torque.len() as u8,
            car.gears.len() as u8,
        ]);
        let scalars = [
            car.mass_kg,
            car.idle_rpm,
            car.launch_rpm,
            car.redline_rpm,
            car.engine_brake_nm,
            car.final_drive,
            car.efficiency,
            car.wheel_radius_m,
            car.drag_area_m2,
            car.rolling,
            car.grip,
            car.driven_weight,
            car.height_over_base,
            car.shift_ms,
        ];
        let curve = car.torque.iter().flat_map(|&(rpm, nm)| [rpm, nm]);
        for number in scalars
            .into_iter()
            .chain(curve)
            .chain(car.gears.iter().copied())
        {
            bytes.extend_from_slice(&number.to_bits().to_le_bytes());
        }
    }
    hash(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn race(names: &[&str]) -> Race {
        let cars = names
            .iter()
            .map(|name| Car::built_in(name).unwrap())
            .collect();
        Race::new(cars, 402.336, 50).unwrap()
    }

    const FULL: Input = Input {
        gear: 1,
        throttle: 255,
    };

    #[test]
    fn limits_are_named() {
        let car = Car::built_in("pebble").unwrap();
        let error = |cars, distance, tick| Race::new(cars, distance, tick).unwrap_err().to_string();
        assert_eq!(
            error(vec![], 400.0, 50),
            "the number of cars is 0, not within 1 to 64"
        );
        assert_eq!(
            error(vec![car.clone(); 65], 400.0, 50),
            "the number of cars is 65, not within 1 to 64"
        );
        assert!(error(vec![car.clone()], f64::NAN, 50).starts_with("distance_m is NaN"));
        assert!(error(vec![car.clone()], 400.0, 0).starts_with("tick_hz is 0"));
        let bad = Car {
            grip: 9.0,
            ..car.clone()
        };
        assert_eq!(
            error(vec![car, bad], 400.0, 50),
            "car 1: grip is 9, not within 0.1 to 5"
        );
    }

    #[test]
    fn inputs_of_another_length_change_nothing() {
        let mut race = race(&["pebble", "lynx"]);
        let hash = race.hash();
        assert_eq!(
            race.step_bytes(&[1, 255]),
            Err(RaceError::Length { need: 4, value: 2 })
        );
        assert_eq!(
            race.step(&[FULL; 3]),
            Err(RaceError::Length { need: 2, value: 3 })
        );
        assert_eq!((race.hash(), race.frame()), (hash, 0));
    }

    #[test]
    fn each_car_crosses_once() {
        let mut race = race(&["volt", "volt", "meteor"]);
        let mut crossed = Vec::new();
        for _ in 0..3000 {
            crossed.extend(
                race.step(&[
                    FULL,
                    Input {
                        gear: 1,
                        throttle: 128,
                    },
                    Input::default(),
                ])
                .unwrap(),
            );
        }
        assert_eq!(crossed, [0, 1]);
        assert!(!race.is_finished());
    }

    #[test]
    fn snapshots_of_other_races_are_refused() {
        let mut one = race(&["pebble"]);
        let before = one.hash();
        let same_size = race(&["lynx"]).snapshot();
        assert_eq!(one.restore(&same_size), Err(RaceError::OtherRace));
        let longer = Race::new(vec![Car::built_in("pebble").unwrap()], 500.0, 50).unwrap();
        assert_eq!(one.restore(&longer.snapshot()), Err(RaceError::OtherRace));
        assert!(matches!(one.restore(&[]), Err(RaceError::Length { .. })));
        let mut broken = one.snapshot();
        broken[HEAD_BYTES..HEAD_BYTES + 8].copy_from_slice(&f64::NAN.to_bits().to_le_bytes());
        assert_eq!(one.restore(&broken), Err(RaceError::Broken));
        assert_eq!(one.hash(), before);
    }

    #[test]
    fn a_fingerprint_knows_every_field() {
        let base = Car::built_in("pebble").unwrap();
        let with = |change: fn(&mut Car)| {
            let mut car = base.clone();
            change(&mut car);
            fingerprint(&[car])
        };
        let changed = [
            with(|_| ()),
            with(|car| car.name.push('2')),
            with(|car| car.mass_kg += 1.0),
            with(|car| car.torque[0].1 += 1.0),
            with(|car| car.gears[0] += 0.1),
            with(|car| car.driven = super::super::car::Driven::All),
            with(|car| car.shift_ms += 1.0),
        ];
        let mut sorted = changed.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), changed.len());
    }

    fn inputs() -> impl Strategy<Value = Vec<(u8, u8)>> {
        let gear = prop_oneof![4 => 0u8..8, 1 => any::<u8>()];
        prop::collection::vec((gear, any::<u8>()), 1..400)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn any_inputs_keep_every_number_finite_and_forward(frames in inputs(), which in 0usize..8, hold in 1usize..30) {
            let car = Car::all_built_in()[which].clone();
            let mut race = Race::new(vec![car.clone()], 402.336, 50).unwrap();
            let mut last_m = 0.0;
            for (gear, throttle) in frames {
                for _ in 0..hold {
                    race.step(&[Input { gear, throttle }]).unwrap();
                }
                let state = race.states()[0];
                prop_assert!([state.rpm, state.speed_mps, state.position_m, state.shift_left_s].iter().all(|n| n.is_finite()));
                prop_assert!(state.position_m >= last_m && state.speed_mps >= 0.0 && state.speed_mps < 200.0);
                prop_assert!(state.rpm >= car.idle_rpm * 0.99 && state.rpm <= car.redline_rpm * 1.15);
                last_m = state.position_m;
            }
        }

        #[test]
        fn a_restored_race_goes_on_the_same_way(frames in inputs(), at in any::<prop::sample::Index>()) {
            let (mut whole, mut other) = (race(&["corsair", "hornet"]), race(&["corsair", "hornet"]));
            let cut = at.index(frames.len());
            let input = |(gear, throttle): (u8, u8)| [Input { gear, throttle }, Input { gear: throttle % 7, throttle: gear.wrapping_mul(31) }];
            for &frame in &frames[..cut] {
                whole.step(&input(frame)).unwrap();
            }
            other.restore(&whole.snapshot()).unwrap();
            for &frame in &frames[cut..] {
                prop_assert_eq!(whole.step(&input(frame)).unwrap(), other.step(&input(frame)).unwrap());
                prop_assert_eq!(whole.hash(), other.hash());
            }
        }

        #[test]
        fn any_snapshot_bytes_are_refused_or_finite(bytes in prop::collection::vec(any::<u8>(), CAR_BYTES)) {
            let mut race = race(&["pebble"]);
            let mut snapshot = race.snapshot();
            snapshot[HEAD_BYTES..].copy_from_slice(&bytes);
            if race.restore(&snapshot).is_ok() {
                for _ in 0..100 {
                    race.step(&[FULL]).unwrap();
                }
                prop_assert!(race.states()[0].speed_mps.is_finite() && race.states()[0].position_m.is_finite());
            }
        }
    }
}
