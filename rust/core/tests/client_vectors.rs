//! Golden bytes of client packets: tests/vectors/client/{packets,refused}.json, which Python checks too.

use serde_json::Value;
use zmqgame_core::stream::packet::{Batch, Header, write_packet};

const LIMIT: usize = 65_536;

fn entries(file: &str) -> Vec<Value> {
    let path = format!(
        "{}/../../tests/vectors/client/{file}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(&path).expect(&path);
    serde_json::from_str(&text).expect(&path)
}

fn text<'a>(entry: &'a Value, name: &str) -> &'a str {
    entry[name].as_str().expect(name)
}

fn bytes(entry: &Value, name: &str) -> Vec<u8> {
    let hex = text(entry, name);
    (0..hex.len() / 2)
        .map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).expect("hex"))
        .collect()
}

#[test]
fn packets_decode_to_their_fields_and_back() {
    for entry in entries("packets") {
        let (name, tcp, payload) = (
            text(&entry, "name"),
            bytes(&entry, "tcp"),
            bytes(&entry, "payload"),
        );
        let mut batch = Batch::default();
        batch.arena.extend_from_slice(&tcp);
        let decoded = batch.decode_arena(5, 0, LIMIT);
        assert_eq!(decoded.error, None, "{name}");
        assert_eq!((decoded.packets, batch.kind.len()), (1, 1), "{name}");
        let sequence: u64 = text(&entry, "sequence").parse().expect("u64");
        assert_eq!(u64::from(batch.kind[0]), entry["kind"], "{name}");
        assert_eq!(batch.sequence[0], sequence, "{name}");
        assert_eq!(batch.payload(0), payload, "{name}");
        let mut written = Vec::new();
        let header = Header {
            kind: batch.kind[0],
            sequence,
        };
        write_packet(&mut written, header, &payload);
        assert_eq!(written, tcp, "{name}");
    }
}

#[test]
fn what_is_no_packet_is_refused_by_name() {
    for entry in entries("refused") {
        let mut batch = Batch::default();
        batch.arena.extend_from_slice(&bytes(&entry, "tcp"));
        let error = batch.decode_arena(5, 0, LIMIT).error;
        let name = error.map(zmqgame_core::stream::packet::PacketError::name);
        assert_eq!(
            name,
            Some(text(&entry, "error")),
            "{}",
            text(&entry, "name")
        );
    }
}
