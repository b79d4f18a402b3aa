//! What several tests of the edge share.

use zmqgame_core::stream::packet::{Batch, KIND_OPEN};
use zmqgame_reactor::edge::{Handler, Out, Write};

/// Sends every packet back to where it came from.
pub struct Echo;

impl Handler for Echo {
    fn handle(&mut self, batch: &Batch, out: &mut Out<'_>) {
        let rows = (0..batch.len()).filter(|&row| batch.kind[row] < KIND_OPEN);
        out.send_all(rows.map(|row| Write {
            connection: batch.connection[row],
            kind: batch.kind[row],
            sequence: batch.sequence[row],
            payload: batch.payload(row),
        }));
    }
}
