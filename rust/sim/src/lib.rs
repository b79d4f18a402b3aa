//! The seeded simulation: real hub and node cores, and a world that fails them. One seed is one run.
#![forbid(unsafe_code)]

/// What is to happen, by time.
pub mod agenda;
/// The promises, checked.
pub mod checker;
/// What became of each message.
pub mod classes;
/// Players' clients.
pub mod client;
/// What can go wrong, in numbers.
pub mod knobs;
/// Messages of `latest` and `droppable`, checked.
pub mod loose;
/// Chance.
pub mod prng;
/// Worlds by hand that show what a rule is for.
pub mod story;
/// A rule less.
pub mod variant;
/// The run.
pub mod world;
