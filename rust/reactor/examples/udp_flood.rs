//! The load of the edge's netcode row.
//!
//! `udp_flood ADDRESS SESSIONS plain|netcode BYTES SECONDS`. The netcode key is 32 times 5, the protocol 1.

use std::error::Error;
use std::time::Duration;

use zmqgame_reactor::load::flood::{self, Plan};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, sessions, kind, bytes, seconds] = arguments.as_slice() else {
        return Err("usage: udp_flood ADDRESS SESSIONS plain|netcode BYTES SECONDS".into());
    };
    let plan = Plan {
        sessions: sessions.parse()?,
        packet_bytes: bytes.parse()?,
        netcode: (kind == "netcode").then_some((1, [5; 32])),
    };
    let sent = flood::run(address, &plan, Duration::from_secs_f64(seconds.parse()?))?;
    println!("{{\"sent\":{sent}}}");
    Ok(())
}
