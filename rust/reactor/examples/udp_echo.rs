//! The native echo server over plain UDP, for the edge's benchmark: one loop, the handler answers a batch at
//! once. Prints its address.

use std::error::Error;

use zmqgame_core::stream::packet::{Batch, KIND_OPEN};
use zmqgame_reactor::edge::config::EdgeConfig;
use zmqgame_reactor::edge::{Edge, Handler, Out, Write};

struct Echo;

impl Handler for Echo {
    fn handle(&mut self, batch: &Batch, out: &mut Out<'_>) {
        let rows = (0..batch.len()).filter(|&row| batch.kind[row] < KIND_OPEN);
        out.send_all(rows.map(|row| Write {
            connection: batch.connection[row],
            kind: 0,
            sequence: 0,
            payload: batch.payload(row),
        }));
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let edge = Edge::start_with(EdgeConfig::default(), |_| Some(Box::new(Echo)))?;
    println!("{}", edge.listen_udp_plain("127.0.0.1:0")?);
    loop {
        std::thread::park();
    }
}
