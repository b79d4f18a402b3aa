//! The drag race for Python: a race that is stepped, and the search for a car's best run.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};
use zmqgame_core::race::car::{Car, Class, Driven};
use zmqgame_core::race::shift::{BestRun, Sample, best_run, drive};
use zmqgame_core::race::state::Race as CoreRace;

/// A quarter mile.
const QUARTER_MILE_M: f64 = 402.336;
const TICK_HZ: u32 = 50;

/// Adds this file's part of the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Race>()
}

fn value_error(error: impl ToString) -> PyErr {
    PyValueError::new_err(error.to_string())
}

fn driven_name(driven: Driven) -> &'static str {
    match driven {
        Driven::Front => "front",
        Driven::Rear => "rear",
        Driven::All => "all",
    }
}

fn driven_from_name(name: &str) -> PyResult<Driven> {
    match name {
        "front" => Ok(Driven::Front),
        "rear" => Ok(Driven::Rear),
        "all" => Ok(Driven::All),
        _ => Err(value_error(format!(
            "driven is {name:?}, not front, rear or all"
        ))),
    }
}

fn class_from_name(name: &str) -> PyResult<Class> {
    let names = Class::ALL.map(Class::as_str).join(", ");
    Class::from_name(name)
        .ok_or_else(|| value_error(format!("class is {name:?}, not one of {names}")))
}

fn built_in(name: &str) -> PyResult<Car> {
    Car::built_in(name).ok_or_else(|| {
        let names: Vec<_> = Car::all_built_in()
            .into_iter()
            .map(|car| car.name)
            .collect();
        value_error(format!("no car {name:?}; there are {}", names.join(", ")))
    })
}

/// A car from a built-in's name, or from a dict whose `base` names the one it differs from.
fn car_from(value: &Bound<'_, PyAny>) -> PyResult<Car> {
    if let Ok(name) = value.cast::<PyString>() {
        return built_in(&name.to_string());
    }
    let fields = value.cast::<PyDict>()?;
    let base = fields
        .get_item("base")?
        .map(|name| name.extract::<String>())
        .transpose()?;
    let (mut car, needs_all) = match base {
        Some(name) => (built_in(&name)?, false),
        None => (built_in("pebble")?, true),
    };
    for (key, value) in fields {
        set_field(&mut car, &key.extract::<String>()?, &value)?;
    }
    let missing = car_fields(fields.py(), &car)?.keys().iter().find(|key| {
        needs_all && !key.eq("class").unwrap_or(false) && !fields.contains(key).unwrap_or(false)
    });
    if let Some(key) = missing {
        return Err(value_error(format!(
            "the car has no {key} (and names no base)"
        )));
    }
    car.check().map_err(value_error)?;
    Ok(car)
}

fn set_field(car: &mut Car, key: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
    match key {
        "base" => {}
        "name" => car.name = value.extract()?,
        "class" => car.class = class_from_name(&value.extract::<String>()?)?,
        "driven" => car.driven = driven_from_name(&value.extract::<String>()?)?,
        "torque" => car.torque = value.extract()?,
        "gears" => car.gears = value.extract()?,
        _ => *scalar(car, key)? = value.extract()?,
    }
    Ok(())
}

fn scalar<'a>(car: &'a mut Car, key: &str) -> PyResult<&'a mut f64> {
    Ok(match key {
        "mass_kg" => &mut car.mass_kg,
        "idle_rpm" => &mut car.idle_rpm,
        "launch_rpm" => &mut car.launch_rpm,
        "redline_rpm" => &mut car.redline_rpm,
        "engine_brake_nm" => &mut car.engine_brake_nm,
        "final_drive" => &mut car.final_drive,
        "efficiency" => &mut car.efficiency,
        "wheel_radius_m" => &mut car.wheel_radius_m,
        "drag_area_m2" => &mut car.drag_area_m2,
        "rolling" => &mut car.rolling,
        "grip" => &mut car.grip,
        "driven_weight" => &mut car.driven_weight,
        "height_over_base" => &mut car.height_over_base,
        "shift_ms" => &mut car.shift_ms,
        _ => return Err(value_error(format!("a car has no field {key:?}"))),
    })
}

fn car_fields<'py>(py: Python<'py>, car: &Car) -> PyResult<Bound<'py, PyDict>> {
    let fields = PyDict::new(py);
    fields.set_item("name", &car.name)?;
    fields.set_item("class", car.class.as_str())?;
    fields.set_item("mass_kg", car.mass_kg)?;
    fields.set_item("torque", &car.torque)?;
    fields.set_item("idle_rpm", car.idle_rpm)?;
    fields.set_item("launch_rpm", car.launch_rpm)?;
    fields.set_item("redline_rpm", car.redline_rpm)?;
    fields.set_item("engine_brake_nm", car.engine_brake_nm)?;
    fields.set_item("gears", &car.gears)?;
    fields.set_item("final_drive", car.final_drive)?;
    fields.set_item("efficiency", car.efficiency)?;
    fields.set_item("wheel_radius_m", car.wheel_radius_m)?;
    fields.set_item("drag_area_m2", car.drag_area_m2)?;
    fields.set_item("rolling", car.rolling)?;
    fields.set_item("grip", car.grip)?;
    fields.set_item("driven", driven_name(car.driven))?;
    fields.set_item("driven_weight", car.driven_weight)?;
    fields.set_item("height_over_base", car.height_over_base)?;
    fields.set_item("shift_ms", car.shift_ms)?;
    Ok(fields)
}

fn run_fields<'py>(
    py: Python<'py>,
    run: &BestRun,
    shift_rpm: &[f64],
    curve: &[Sample],
) -> PyResult<Bound<'py, PyDict>> {
    let fields = PyDict::new(py);
    fields.set_item("time_us", run.time_us)?;
    fields.set_item("trap_kmh", run.trap_kmh)?;
    let shifts = PyList::empty(py);
    for shift in &run.shifts {
        let one = PyDict::new(py);
        one.set_item("gear", shift.gear)?;
        one.set_item("rpm", shift.rpm)?;
        one.set_item("speed_kmh", shift.speed_kmh)?;
        one.set_item("position_m", shift.position_m)?;
        one.set_item("time_ms", shift.time_ms)?;
        shifts.append(one)?;
    }
    fields.set_item("shifts", shifts)?;
    fields.set_item("shift_rpm", shift_rpm)?;
    let row = |s: &Sample| (s.time_ms, s.position_m, s.speed_kmh, s.rpm, s.gear);
    fields.set_item("curve", curve.iter().map(row).collect::<Vec<_>>())?;
    Ok(fields)
}

/// A race: cars on one track, stepped tick by tick. The same on every machine.
#[pyclass(frozen, module = "zmqgame_native")]
pub struct Race(Mutex<CoreRace>);

impl Race {
    fn race(&self) -> MutexGuard<'_, CoreRace> {
        // Steps either happen or do not, so a poisoned race is still a whole one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Race {
    #[new]
    #[pyo3(signature = (cars, distance_m=QUARTER_MILE_M, tick_hz=TICK_HZ))]
    fn new(cars: Vec<Bound<'_, PyAny>>, distance_m: f64, tick_hz: u32) -> PyResult<Self> {
        let cars = cars.iter().map(car_from).collect::<PyResult<Vec<_>>>()?;
        let race = CoreRace::new(cars, distance_m, tick_hz).map_err(value_error)?;
        Ok(Self(Mutex::new(race)))
    }

    /// One tick from two bytes a car (gear, throttle): the numbers of cars that crossed the line.
    fn step(&self, inputs: &[u8]) -> PyResult<Vec<usize>> {
        self.race().step_bytes(inputs).map_err(value_error)
    }

    /// What each car does, ready for JSON.
    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let cars = PyList::empty(py);
        for state in self.race().states() {
            let fields = PyDict::new(py);
            fields.set_item("position_m", state.position_m)?;
            fields.set_item("speed_kmh", state.speed_mps * 3.6)?;
            fields.set_item("rpm", state.rpm)?;
            fields.set_item("gear", state.gear)?;
            fields.set_item("shifting", state.shift_left_s > 0.0)?;
            fields.set_item("spinning", state.spinning)?;
            fields.set_item("finished", state.is_finished())?;
            fields.set_item("time_us", state.time_us)?;
            fields.set_item("trap_kmh", state.trap_kmh)?;
            cars.append(fields)?;
        }
        Ok(cars)
    }

    /// The whole state in bytes.
    fn snapshot<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.race().snapshot())
    }

    /// Goes on from a snapshot of a race with the same cars, track and tick.
    fn restore(&self, snapshot: &[u8]) -> PyResult<()> {
        self.race().restore(snapshot).map_err(value_error)
    }

    /// The hash of the whole state.
    fn hash(&self) -> u64 {
        self.race().hash()
    }

    /// This race's cars, by number.
    fn cars<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        self.race()
            .cars()
            .iter()
            .map(|car| car_fields(py, car))
            .collect()
    }

    /// Ticks since the signal.
    #[getter]
    fn frame(&self) -> u64 {
        self.race().frame()
    }

    /// Whether every car has crossed the line.
    #[getter]
    fn finished(&self) -> bool {
        self.race().is_finished()
    }

    /// The cars that can be named, the fastest class first.
    #[staticmethod]
    fn built_in(py: Python<'_>) -> PyResult<Vec<Bound<'_, PyDict>>> {
        Car::all_built_in()
            .iter()
            .map(|car| car_fields(py, car))
            .collect()
    }

    /// The best run of a car; None if it does not reach the line within three minutes.
    #[staticmethod]
    #[pyo3(signature = (car, distance_m=QUARTER_MILE_M, tick_hz=TICK_HZ))]
    fn best_shifts<'py>(
        py: Python<'py>,
        car: &Bound<'py, PyAny>,
        distance_m: f64,
        tick_hz: u32,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        let car = car_from(car)?;
        let found = py
            .detach(|| best_run(&car, distance_m, tick_hz))
            .map_err(value_error)?;
        let Some((run, shift_rpm)) = found else {
            return Ok(None);
        };
        let mut curve = Vec::new();
        drive(&car, &shift_rpm, distance_m, tick_hz, |sample| {
            curve.push(sample)
        })
        .map_err(value_error)?;
        run_fields(py, &run, &shift_rpm, &curve).map(Some)
    }

    /// The class of a time over a quarter mile: pro, super, sport or street.
    #[staticmethod]
    fn class_of(time_us: u64) -> &'static str {
        Class::of_quarter_mile(time_us).as_str()
    }
}
