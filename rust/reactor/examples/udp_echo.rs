//! The native echo server over plain UDP, for the edge's benchmark: one loop, the handler answers a batch at
//! once. Prints its address.

use std::error::Error;

use zmqgame_reactor::edge::Edge;
use zmqgame_reactor::edge::config::EdgeConfig;
use zmqgame_reactor::load::Echo;

fn main() -> Result<(), Box<dyn Error>> {
    let edge = Edge::start_with(EdgeConfig::default(), |_| Some(Box::new(Echo)))?;
    println!("{}", edge.listen_udp_plain("127.0.0.1:0")?);
    loop {
        std::thread::park();
    }
}
