//! The load generator of the edge's benchmark.
//!
//! `edge_load ADDRESS CONNECTIONS DEPTH raw|framed|websocket SECONDS` prints one JSON object. With 0
//! seconds it only connects, says so with a line, and holds the connections until its input ends.

use std::error::Error;
use std::io::Read;
use std::time::Duration;

use zmqgame_reactor::load::{Load, Plan, Wire};

/// Not measured: connections settle, caches fill.
const WARM_UP: Duration = Duration::from_millis(300);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, connections, depth, wire, seconds] = arguments.as_slice() else {
        let usage = "usage: edge_load ADDRESS CONNECTIONS DEPTH raw|framed|websocket SECONDS";
        return Err(usage.into());
    };
    let plan = Plan {
        wire: match wire.as_str() {
            "raw" => Wire::Raw,
            "framed" => Wire::Packets,
            "websocket" => Wire::WebSocket,
            _ => return Err("the wire must be raw, framed or websocket".into()),
        },
        connections: connections.parse()?,
        depth: depth.parse()?,
        message_bytes: 64,
    };
    let load = Load::connect(address, &plan)?;
    if seconds == "0" {
        println!("connected");
        std::io::stdin().read_to_end(&mut Vec::new())?;
        return Ok(());
    }
    let report = load.run(WARM_UP, Duration::from_secs_f64(seconds.parse()?))?;
    println!(
        "{{\"messages_s\":{:.0},\"messages\":{},\"p50_us\":{},\"p99_us\":{}}}",
        report.messages_s(),
        report.messages_in_all,
        report.round_us(0.5),
        report.round_us(0.99)
    );
    Ok(())
}
