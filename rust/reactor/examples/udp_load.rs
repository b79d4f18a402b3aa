//! The load generator of the edge's UDP benchmark.
//!
//! `udp_load ADDRESS SOCKETS DEPTH BYTES SECONDS` prints one JSON object.

use std::error::Error;
use std::time::Duration;

use zmqgame_reactor::load::udp::UdpLoad;

/// Not measured: addresses become known, caches fill.
const WARM_UP: Duration = Duration::from_millis(300);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, sockets, depth, bytes, seconds] = arguments.as_slice() else {
        return Err("usage: udp_load ADDRESS SOCKETS DEPTH BYTES SECONDS".into());
    };
    let load = UdpLoad::connect(address, sockets.parse()?, depth.parse()?, bytes.parse()?)?;
    let report = load.run(WARM_UP, Duration::from_secs_f64(seconds.parse()?))?;
    println!(
        "{{\"messages_s\":{:.0},\"messages\":{},\"lost\":{}}}",
        report.messages_s(),
        report.messages_in_all,
        report.lost
    );
    Ok(())
}
