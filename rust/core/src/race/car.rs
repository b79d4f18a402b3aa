//! What a car is. Every field has a range in which the physics stays finite and sensible.

use std::fmt;

use crate::limits::{MAX_CURVE_POINTS, MAX_GEARS, MAX_NAME_BYTES};

/// Standard gravity, m/s².
pub const GRAVITY: f64 = 9.80665;
/// Of air at 15 °C at the sea, kg/m³.
pub const AIR_DENSITY: f64 = 1.225;
/// Of the rated grip, what is left when the driven wheels spin.
pub const SPIN_GRIP: f64 = 0.82;
/// Turns in a minute for one radian in a second.
const RPM_PER_RAD_S: f64 = 9.549_296_585_513_72;

/// Which wheels are driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driven {
    /// Acceleration takes load off them.
    Front,
    /// Acceleration puts load on them.
    Rear,
    /// The whole weight is on them.
    All,
}

/// A car as its maker describes it. SI units, where the name says no other.
#[derive(Clone, Debug, PartialEq)]
pub struct Car {
    /// What players call it.
    pub name: String,
    /// Its class by the balance simulator; see [`Class`].
    pub class: Class,
    /// Ready to race, with driver.
    pub mass_kg: f64,
    /// Torque at full throttle: (rpm, Nm), by rising rpm; straight lines between, flat outside.
    pub torque: Vec<(f64, f64)>,
    /// The slowest the engine turns.
    pub idle_rpm: f64,
    /// While the clutch slips, what full throttle holds the engine at.
    pub launch_rpm: f64,
    /// Where the limiter cuts.
    pub redline_rpm: f64,
    /// What the closed throttle takes from the engine.
    pub engine_brake_nm: f64,
    /// Ratio of each gear, the first one first, falling.
    pub gears: Vec<f64>,
    /// Ratio of the axle.
    pub final_drive: f64,
    /// Of the engine's torque, what reaches the wheels.
    pub efficiency: f64,
    /// Of the driven wheels, under load.
    pub wheel_radius_m: f64,
    /// Air drag coefficient times frontal area.
    pub drag_area_m2: f64,
    /// Rolling resistance over weight.
    pub rolling: f64,
    /// Friction of the tyres, warm.
    pub grip: f64,
    /// Which wheels are driven.
    pub driven: Driven,
    /// Of the standing weight, what is on the driven axle (1 for all-wheel drive).
    pub driven_weight: f64,
    /// Height of the centre of mass over the wheelbase: how acceleration moves load.
    pub height_over_base: f64,
    /// Without drive at each change of gear.
    pub shift_ms: f64,
}

/// Classes, by the best quarter mile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Under 9.5 s.
    Pro,
    /// Under 11 s.
    Super,
    /// Under 13 s.
    Sport,
    /// The rest.
    Street,
}

impl Class {
    /// All, the fastest first.
    pub const ALL: [Self; 4] = [Self::Pro, Self::Super, Self::Sport, Self::Street];

    /// The class of a car by its best time over a quarter mile.
    pub fn of_quarter_mile(time_us: u64) -> Self {
        match time_us {
            0..9_500_000 => Self::Pro,
            9_500_000..11_000_000 => Self::Super,
            11_000_000..13_000_000 => Self::Sport,
            _ => Self::Street,
        }
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pro => "pro",
            Self::Super => "super",
            Self::Sport => "sport",
            Self::Street => "street",
        }
    }

    /// The class of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == name)
    }
}

/// Why a car is refused.
#[derive(Clone, Debug, PartialEq)]
pub enum CarError {
    /// A number is outside its range, or not a number.
    Range {
        /// The field.
        field: &'static str,
        /// The least that is allowed.
        low: f64,
        /// The most that is allowed.
        high: f64,
        /// What it is.
        value: f64,
    },
    /// Too few or too many of something.
    Count {
        /// The field.
        field: &'static str,
        /// The least that is allowed.
        low: usize,
        /// The most that is allowed.
        high: usize,
        /// How many there are.
        value: usize,
    },
    /// Numbers that must rise or fall do not, from this place on.
    Order {
        /// The field.
        field: &'static str,
        /// The first place that breaks the order.
        at: usize,
    },
}

impl fmt::Display for CarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range {
                field,
                low,
                high,
                value,
            } => {
                write!(f, "{field} is {value}, not within {low} to {high}")
            }
            Self::Count {
                field,
                low,
                high,
                value,
            } => {
                write!(f, "{field} has {value} entries, not {low} to {high}")
            }
            Self::Order { field, at } => write!(f, "{field} is out of order at entry {at}"),
        }
    }
}

impl std::error::Error for CarError {}

fn range(field: &'static str, value: f64, low: f64, high: f64) -> Result<(), CarError> {
    // Not `<` and `>`: a value that is not a number must fail.
    if value >= low && value <= high {
        return Ok(());
    }
    Err(CarError::Range {
        field,
        low,
        high,
        value,
    })
}

fn count(field: &'static str, value: usize, low: usize, high: usize) -> Result<(), CarError> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(CarError::Count {
        field,
        low,
        high,
        value,
    })
}

impl Car {
    /// Checks every field; only then can the car race.
    pub fn check(&self) -> Result<(), CarError> {
        count("name", self.name.len(), 1, MAX_NAME_BYTES)?;
        range("mass_kg", self.mass_kg, 50.0, 20_000.0)?;
        range("idle_rpm", self.idle_rpm, 100.0, 5_000.0)?;
        range(
            "redline_rpm",
            self.redline_rpm,
            self.idle_rpm + 500.0,
            30_000.0,
        )?;
        range(
            "launch_rpm",
            self.launch_rpm,
            self.idle_rpm,
            self.redline_rpm,
        )?;
        range("engine_brake_nm", self.engine_brake_nm, 0.0, 2_000.0)?;
        range("final_drive", self.final_drive, 0.5, 20.0)?;
        range("efficiency", self.efficiency, 0.1, 1.0)?;
        range("wheel_radius_m", self.wheel_radius_m, 0.1, 1.0)?;
        range("drag_area_m2", self.drag_area_m2, 0.0, 10.0)?;
        range("rolling", self.rolling, 0.0, 0.2)?;
        range("grip", self.grip, 0.1, 5.0)?;
        range("driven_weight", self.driven_weight, 0.05, 1.0)?;
        range("height_over_base", self.height_over_base, 0.0, 0.5)?;
        range("shift_ms", self.shift_ms, 0.0, 2_000.0)?;
        self.check_gears()?;
        self.check_torque()
    }

    fn check_gears(&self) -> Result<(), CarError> {
        count("gears", self.gears.len(), 1, MAX_GEARS)?;
        for (at, &ratio) in self.gears.iter().enumerate() {
            range("gears", ratio, 0.1, 20.0)?;
            if at > 0 && ratio >= self.gears[at - 1] {
                return Err(CarError::Order { field: "gears", at });
            }
        }
        Ok(())
    }

    fn check_torque(&self) -> Result<(), CarError> {
        count("torque", self.torque.len(), 1, MAX_CURVE_POINTS)?;
        for (at, &(rpm, nm)) in self.torque.iter().enumerate() {
            range("torque", rpm, 0.0, 30_000.0)?;
            range("torque", nm, 0.0, 20_000.0)?;
            if at > 0 && rpm <= self.torque[at - 1].0 {
                return Err(CarError::Order {
                    field: "torque",
                    at,
                });
            }
        }
        Ok(())
    }

    /// Torque at full throttle.
    pub fn torque_nm(&self, rpm: f64) -> f64 {
        let after = self.torque.partition_point(|&(at, _)| at < rpm);
        match (
            after.checked_sub(1).map(|before| self.torque[before]),
            self.torque.get(after),
        ) {
            (None, Some(&(_, nm))) | (Some((_, nm)), None) => nm,
            (Some((low, from)), Some(&(high, to))) => {
                from + (to - from) * ((rpm - low) / (high - low))
            }
            (None, None) => 0.0,
        }
    }

    /// What the engine turns when the clutch is closed in a gear (from 1).
    pub fn rpm_at(&self, speed_mps: f64, gear: u8) -> f64 {
        speed_mps / self.wheel_radius_m * self.ratio(gear) * RPM_PER_RAD_S
    }

    /// Turns of the engine for one of the wheel; 0 in neutral.
    pub fn ratio(&self, gear: u8) -> f64 {
        let place = usize::from(gear).checked_sub(1);
        place
            .and_then(|place| self.gears.get(place))
            .map_or(0.0, |ratio| ratio * self.final_drive)
    }

    /// The force at which the driven wheels begin to spin.
    ///
    /// Acceleration itself moves load: `F = grip * (weight on the axle ± F * height/base)`,
    /// solved for `F`. A car whose front lifts off has its whole weight behind.
    pub fn grip_n(&self) -> f64 {
        let weight = self.mass_kg * GRAVITY;
        let moved = self.grip * self.height_over_base;
        match self.driven {
            Driven::All => self.grip * weight,
            Driven::Front => self.grip * weight * self.driven_weight / (1.0 + moved),
            Driven::Rear => {
                let share = if moved < 1.0 {
                    self.driven_weight / (1.0 - moved)
                } else {
                    1.0
                };
                self.grip * weight * share.min(1.0)
            }
        }
    }

    /// The built-in car of that name.
    pub fn built_in(name: &str) -> Option<Self> {
        BUILT_IN.iter().find(|row| row.name == name).map(Row::car)
    }

    /// All built-in cars, the fastest class first.
    pub fn all_built_in() -> Vec<Self> {
        BUILT_IN.iter().map(Row::car).collect()
    }
}

/// One built-in car: what differs between them.
struct Row {
    name: &'static str,
    class: Class,
    mass_kg: f64,
    torque: &'static [(f64, f64)],
    /// Idle, launch, redline.
    rpm: (f64, f64, f64),
    gears: &'static [f64],
    final_drive: f64,
    wheel_radius_m: f64,
    drag_area_m2: f64,
    grip: f64,
    driven: (Driven, f64, f64),
    shift_ms: f64,
}

impl Row {
    fn car(&self) -> Car {
        let (idle_rpm, launch_rpm, redline_rpm) = self.rpm;
        let (driven, driven_weight, height_over_base) = self.driven;
        let peak_nm = self
            .torque
            .iter()
            .fold(0.0, |peak: f64, &(_, nm)| peak.max(nm));
        Car {
            name: self.name.to_owned(),
            class: self.class,
            mass_kg: self.mass_kg,
            torque: self.torque.to_vec(),
            idle_rpm,
            launch_rpm,
            redline_rpm,
            engine_brake_nm: peak_nm / 8.0,
            gears: self.gears.to_vec(),
            final_drive: self.final_drive,
            efficiency: 0.88,
            wheel_radius_m: self.wheel_radius_m,
            drag_area_m2: self.drag_area_m2,
            rolling: 0.013,
            grip: self.grip,
            driven,
            driven_weight,
            height_over_base,
            shift_ms: self.shift_ms,
        }
    }
}

use Class::{Pro, Sport, Street, Super};
use Driven::{All, Front, Rear};

/// The built-in cars, two a class. Invented; their figures are like those of real ones.
const BUILT_IN: [Row; 8] = [
    Row {
        name: "meteor",
        class: Pro,
        mass_kg: 1180.0,
        torque: &[
            (3000.0, 900.0),
            (5500.0, 1250.0),
            (7500.0, 1180.0),
            (9000.0, 900.0),
        ],
        rpm: (1500.0, 6500.0, 9000.0),
        gears: &[2.35, 1.72, 1.31, 1.04, 0.86],
        final_drive: 3.9,
        wheel_radius_m: 0.39,
        drag_area_m2: 0.52,
        grip: 1.75,
        driven: (Rear, 0.56, 0.2),
        shift_ms: 60.0,
    },
    Row {
        name: "volt",
        class: Pro,
        mass_kg: 1650.0,
        torque: &[
            (0.0, 1480.0),
            (7000.0, 1480.0),
            (12000.0, 860.0),
            (17000.0, 520.0),
        ],
        rpm: (100.0, 100.0, 17000.0),
        gears: &[1.0],
        final_drive: 8.6,
        wheel_radius_m: 0.345,
        drag_area_m2: 0.5,
        grip: 1.5,
        driven: (All, 1.0, 0.17),
        shift_ms: 0.0,
    },
    Row {
        name: "corsair",
        class: Super,
        mass_kg: 1490.0,
        torque: &[
            (1500.0, 480.0),
            (3000.0, 740.0),
            (5500.0, 760.0),
            (7200.0, 640.0),
            (8000.0, 520.0),
        ],
        rpm: (900.0, 4200.0, 8000.0),
        gears: &[3.2, 2.15, 1.56, 1.19, 0.96, 0.8],
        final_drive: 3.7,
        wheel_radius_m: 0.34,
        drag_area_m2: 0.62,
        grip: 1.25,
        driven: (Rear, 0.6, 0.19),
        shift_ms: 90.0,
    },
    Row {
        name: "tempest",
        class: Super,
        mass_kg: 1690.0,
        torque: &[
            (1500.0, 520.0),
            (2500.0, 800.0),
            (5800.0, 790.0),
            (7000.0, 660.0),
        ],
        rpm: (800.0, 3800.0, 7000.0),
        gears: &[3.5, 2.3, 1.6, 1.2, 0.95, 0.78],
        final_drive: 3.6,
        wheel_radius_m: 0.345,
        drag_area_m2: 0.68,
        grip: 1.15,
        driven: (All, 1.0, 0.2),
        shift_ms: 110.0,
    },
    Row {
        name: "lynx",
        class: Sport,
        mass_kg: 1530.0,
        torque: &[
            (1200.0, 300.0),
            (1900.0, 480.0),
            (5200.0, 480.0),
            (6600.0, 390.0),
        ],
        rpm: (800.0, 3600.0, 6600.0),
        gears: &[3.8, 2.4, 1.65, 1.22, 0.95, 0.77],
        final_drive: 3.6,
        wheel_radius_m: 0.33,
        drag_area_m2: 0.66,
        grip: 1.02,
        driven: (All, 1.0, 0.21),
        shift_ms: 140.0,
    },
    Row {
        name: "stallion",
        class: Sport,
        mass_kg: 1760.0,
        torque: &[
            (1000.0, 360.0),
            (3000.0, 500.0),
            (4600.0, 560.0),
            (6500.0, 480.0),
            (7300.0, 390.0),
        ],
        rpm: (750.0, 2900.0, 7300.0),
        gears: &[3.66, 2.43, 1.69, 1.32, 1.0, 0.65],
        final_drive: 3.73,
        wheel_radius_m: 0.345,
        drag_area_m2: 0.78,
        grip: 1.12,
        driven: (Rear, 0.5, 0.2),
        shift_ms: 250.0,
    },
    Row {
        name: "hornet",
        class: Street,
        mass_kg: 1260.0,
        torque: &[
            (1000.0, 180.0),
            (1800.0, 310.0),
            (4500.0, 310.0),
            (6200.0, 235.0),
            (6800.0, 190.0),
        ],
        rpm: (850.0, 3000.0, 6800.0),
        gears: &[3.45, 2.05, 1.42, 1.08, 0.87, 0.72],
        final_drive: 4.1,
        wheel_radius_m: 0.31,
        drag_area_m2: 0.67,
        grip: 0.98,
        driven: (Front, 0.62, 0.21),
        shift_ms: 220.0,
    },
    Row {
        name: "pebble",
        class: Street,
        mass_kg: 1050.0,
        torque: &[
            (900.0, 80.0),
            (2500.0, 125.0),
            (4400.0, 135.0),
            (6000.0, 118.0),
            (6600.0, 95.0),
        ],
        rpm: (800.0, 2800.0, 6600.0),
        gears: &[3.55, 1.9, 1.28, 0.97, 0.8],
        final_drive: 4.06,
        wheel_radius_m: 0.29,
        drag_area_m2: 0.64,
        grip: 0.92,
        driven: (Front, 0.63, 0.22),
        shift_ms: 260.0,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_car_is_valid_and_has_its_own_name() {
        let cars = Car::all_built_in();
        for (at, car) in cars.iter().enumerate() {
            assert_eq!(car.check(), Ok(()), "{}", car.name);
            assert!(cars[..at].iter().all(|other| other.name != car.name));
            assert_eq!(Car::built_in(&car.name).as_ref(), Some(car));
        }
        assert_eq!(Car::built_in("tricycle"), None);
    }

    #[test]
    fn torque_is_straight_between_points_and_flat_outside() {
        let mut car = Car::built_in("pebble").unwrap();
        car.torque = vec![(1000.0, 100.0), (2000.0, 200.0), (4000.0, 100.0)];
        let at = |rpm| car.torque_nm(rpm);
        assert_eq!([at(0.0), at(1000.0), at(1500.0)], [100.0, 100.0, 150.0]);
        assert_eq!([at(2000.0), at(3000.0), at(9000.0)], [200.0, 150.0, 100.0]);
    }

    #[test]
    fn a_refusal_names_field_range_and_value() {
        let change = |with: fn(&mut Car)| {
            let mut car = Car::built_in("pebble").unwrap();
            with(&mut car);
            car.check().unwrap_err().to_string()
        };
        assert_eq!(
            change(|car| car.mass_kg = 1.0),
            "mass_kg is 1, not within 50 to 20000"
        );
        assert_eq!(
            change(|car| car.grip = f64::NAN),
            "grip is NaN, not within 0.1 to 5"
        );
        assert_eq!(
            change(|car| car.gears.clear()),
            "gears has 0 entries, not 1 to 12"
        );
        assert_eq!(
            change(|car| car.gears[2] = 9.0),
            "gears is out of order at entry 2"
        );
        assert_eq!(
            change(|car| car.torque[1].0 = 1.0),
            "torque is out of order at entry 1"
        );
        assert!(change(|car| car.torque[0].1 = f64::INFINITY).contains("torque is inf"));
    }

    #[test]
    fn load_moves_to_the_rear() {
        let mut car = Car::built_in("pebble").unwrap();
        (car.driven_weight, car.grip, car.height_over_base) = (0.5, 1.0, 0.2);
        let grip = |driven| {
            Car {
                driven,
                ..car.clone()
            }
            .grip_n()
                / (car.mass_kg * GRAVITY)
        };
        assert!((grip(Driven::Rear) - 0.625).abs() < 1e-12);
        assert!((grip(Driven::Front) - 0.5 / 1.2).abs() < 1e-12);
        assert!((grip(Driven::All) - 1.0).abs() < 1e-12);
    }
}
