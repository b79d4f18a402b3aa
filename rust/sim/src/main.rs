//! The seeded simulation: one seed is one run.

fn main() {
    println!("zmqgame-sim {}", env!("CARGO_PKG_VERSION"));
}
