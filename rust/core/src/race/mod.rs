//! The physics of the drag race, written once: the server, the balance simulator and the replay
//! all run this code.
//!
//! **The same bits on any machine.** A state is `f64`s, and they meet only `+ - * /`, `sqrt`,
//! comparisons and rounding: IEEE 754 defines each of these to the last bit, and Rust neither
//! reorders them nor fuses a multiply with an add. Sine, power, exponential and logarithm differ
//! between C libraries, so they do not occur. Golden hashes in `tests/race_golden.rs` hold it.
//!
//! [`car`] says what a car is, [`step`] moves it, [`state`] is a whole race with its snapshot and
//! hash, and [`shift`] drives a car as well as it can be driven.

/// What a car is, and those that are built in.
pub mod car;
/// How well a car can be driven.
pub mod shift;
/// A whole race: its cars' states, snapshot, hash.
pub mod state;
/// One step of one car.
pub mod step;
