//! An echo with a native handler: for the benchmark, and as the smallest server without Python.
//!
//! `edge_echo raw|packets` prints its address and serves until it is killed.

use std::error::Error;

use zmqgame_reactor::edge::Edge;
use zmqgame_reactor::edge::config::{EdgeConfig, Framing};
use zmqgame_reactor::load::Echo;

fn main() -> Result<(), Box<dyn Error>> {
    let framing = match std::env::args().nth(1).as_deref() {
        Some("raw") => Framing::Raw,
        Some("packets") => Framing::Packets,
        _ => return Err("usage: edge_echo raw|packets".into()),
    };
    let config = EdgeConfig {
        idle_ms: 0,
        handshake_ms: 0,
        ..EdgeConfig::default()
    };
    let edge = Edge::start_with(config, |_| Some(Box::new(Echo)))?;
    println!("{}", edge.listen_tcp("127.0.0.1:0", framing)?);
    loop {
        std::thread::park();
    }
}
