//! What several tests of the edge share. Each of them takes its part.
#![allow(dead_code)]

pub mod player;

use std::io::Read;
use std::time::{Duration, Instant};

use zmqgame_core::stream::packet::{Batch, KIND_CLOSE, KIND_OPEN};
use zmqgame_reactor::edge::{Edge, Handler, Out, Write};

/// How long anything may take, on a machine that has other work.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Sends every packet back to where it came from.
pub struct Echo;

impl Handler for Echo {
    fn handle(&mut self, batch: &Batch, out: &mut Out<'_>) {
        assert_eq!(out.send_all(answers(batch)), 0);
    }
}

/// Every packet of a batch, back to where it came from.
pub fn answers(batch: &Batch) -> impl Iterator<Item = Write<'_>> {
    let rows = (0..batch.len()).filter(|&row| batch.kind[row] < KIND_OPEN);
    rows.map(|row| Write {
        connection: batch.connection[row],
        kind: batch.kind[row],
        sequence: batch.sequence[row],
        payload: batch.payload(row),
    })
}

/// Of one row: connection, kind, payload.
pub type Row = (u64, u8, Vec<u8>);

/// Takes rows until there are those that `enough` likes.
pub fn rows_until(edge: &Edge, rows: &mut Vec<Row>, enough: impl Fn(&[Row]) -> bool) {
    let end = Instant::now() + DEADLINE;
    while !enough(rows) {
        assert!(Instant::now() < end, "not seen; there is {:?}", rows.last());
        if edge.wait(50).unwrap() {
            let batch = edge.receive();
            for row in 0..batch.len() {
                let payload = batch.payload(row).to_vec();
                rows.push((batch.connection[row], batch.kind[row], payload));
            }
        }
    }
}

/// How many rows are of a kind.
pub fn count(rows: &[Row], kind: u8) -> usize {
    rows.iter().filter(|row| row.1 == kind).count()
}

/// The reasons of all closes, sorted.
pub fn reasons(rows: &[Row]) -> Vec<String> {
    let closes = rows.iter().filter(|row| row.1 == KIND_CLOSE);
    let mut all: Vec<_> = closes
        .map(|row| String::from_utf8(row.2.clone()).unwrap())
        .collect();
    all.sort();
    all
}

/// Waits for a condition.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The value of one of an edge's counters.
pub fn counter(edge: &Edge, name: &str) -> u64 {
    let all = edge.counters().snapshot();
    all.iter().find(|(key, _)| *key == name).unwrap().1
}

/// Pauses a connection and waits until that is done: its loop does what was asked in turn.
pub fn pause(edge: &Edge, id: u64, client: &mut impl Read) {
    edge.pause(id);
    let mark = Write {
        connection: id,
        kind: 0,
        sequence: 0,
        payload: b"paused",
    };
    assert_eq!(edge.send([mark]), 0);
    client.read_exact(&mut [0; 6]).unwrap();
}
