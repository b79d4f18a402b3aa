//! Golden bytes of every kind of bus message: tests/vectors/bus/*.json, which Python checks too.
//!
//! Each file is a list of {name, hex, fields}; 64-bit integers are decimal strings, payloads hex.
//! What is here was written once. A new version of the protocol adds files and changes none.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use zmqgame_core::bus::codec::decode;
use zmqgame_core::bus::message::*;

type Vector = (&'static str, Message<'static>, Value);

const ID: MessageId = MessageId {
    node_key: 0x0102_0304_0506_0708,
    epoch: 1_795_000_000_000,
    seq: 9,
};

fn id() -> Value {
    json!({"node_key": "72623859790382856", "epoch": "1795000000000", "seq": "9"})
}

fn sends() -> Vec<Vector> {
    let send = |target, policy, resend, content, key, payload| {
        Message::Send(Send {
            seq: 5,
            low: 3,
            deadline_ms: 1_795_000_000_123,
            deliver_at_ms: 0,
            policy,
            resend,
            quiet: false,
            trace: false,
            content,
            target,
            key,
            payload,
        })
    };
    let fields = json!({"seq": "5", "low": "3", "deadline_ms": "1795000000123"});
    let with = |more: Value| merge(&fields, more);
    let (must, latest, drop) = (Policy::MustDeliver, Policy::Latest, Policy::Droppable);
    vec![
        (
            "send",
            send(
                Target::Player("alice"),
                must,
                true,
                Content::Json,
                "",
                br#"{"gift":100}"#,
            ),
            with(
                json!({"policy": 0, "resend": true, "content": 2, "player": "alice", "key": "", "payload": "7b2267696674223a3130307d"}),
            ),
        ),
        (
            "send_group",
            send(
                Target::Group("team-7"),
                latest,
                false,
                Content::Text,
                "score",
                "zwölf".as_bytes(),
            ),
            with(
                json!({"policy": 1, "resend": false, "content": 1, "group": "team-7", "key": "score", "payload": "7a77c3b66c66"}),
            ),
        ),
        (
            "broadcast",
            send(
                Target::Broadcast(Scope::Nodes),
                drop,
                false,
                Content::Bytes,
                "",
                &[0, 255],
            ),
            with(
                json!({"policy": 2, "resend": false, "content": 0, "scope": 1, "key": "", "payload": "00ff"}),
            ),
        ),
    ]
}

fn merge(base: &Value, more: Value) -> Value {
    let mut all = base.as_object().cloned().unwrap_or_default();
    all.extend(more.as_object().cloned().unwrap_or_default());
    Value::Object(all)
}

fn from_node() -> Vec<Vector> {
    const CLAIMS: &[Claim<'static>] = &[
        Claim {
            player: "alice",
            login: 4_294_967_297,
            request: 2,
        },
        Claim {
            player: "Zoë",
            login: 0,
            request: 3,
        },
    ];
    const MEMBERS: &[Member<'static>] = &[Member {
        group: "team-7",
        player: "alice",
    }];
    const ACKS: &[Ack] = &[
        Ack {
            binding: 4_294_967_298,
            up_to: 7,
        },
        Ack {
            binding: 4_294_967_300,
            up_to: 1,
        },
    ];
    let claims = json!([{"player": "alice", "login": "4294967297", "request": "2"}, {"player": "Zoë", "login": "0", "request": "3"}]);
    let members = json!([{"group": "team-7", "player": "alice"}]);
    vec![
        (
            "hello",
            Message::Hello(Hello {
                version_min: 1,
                version_max: 2,
                node_key: node_key("game-1"),
                epoch: 1_795_000_000_000,
                connection: 3,
                highest_hub_epoch: 28_000_000,
                low: 17,
                features: 0,
                name: "game-1",
                roles: (&["game", "game:game-1"]).into(),
            }),
            json!({"version_min": 1, "version_max": 2, "node_key": node_key("game-1").to_string(), "epoch": "1795000000000",
                "connection": "3", "highest_hub_epoch": 28_000_000, "low": "17", "features": "0", "name": "game-1",
                "roles": ["game", "game:game-1"]}),
        ),
        (
            "request",
            Message::Request {
                call: 1,
                deadline_ms: 250,
                service: "stats",
                content: Content::Text,
                payload: b"hi",
            },
            json!({"call": "1", "deadline_ms": 250, "service": "stats", "content": 1, "payload": "6869"}),
        ),
        (
            "reply",
            Message::Reply {
                call: 2,
                ok: true,
                content: Content::Bytes,
                payload: b"",
            },
            json!({"call": "2", "ok": true, "content": 0, "payload": ""}),
        ),
        (
            "cancel",
            Message::Cancel { call: u64::MAX },
            json!({"call": "18446744073709551615"}),
        ),
        (
            "login",
            Message::Login {
                claims: CLAIMS.into(),
            },
            json!({"claims": claims}),
        ),
        (
            "register",
            Message::Register {
                claims: CLAIMS.into(),
                last: true,
            },
            json!({"claims": claims, "last": true}),
        ),
        (
            "logout",
            Message::Logout {
                player: "alice",
                login: 4_294_967_297,
                cursor: (&[ID]).into(),
            },
            json!({"player": "alice", "login": "4294967297", "cursor": [id()]}),
        ),
        (
            "ack",
            Message::Ack { acks: ACKS.into() },
            json!({"acks": [{"binding": "4294967298", "up_to": 7}, {"binding": "4294967300", "up_to": 1}]}),
        ),
        (
            "join",
            Message::Join {
                request: 8,
                durable: true,
                members: MEMBERS.into(),
            },
            json!({"request": "8", "durable": true, "members": members}),
        ),
        (
            "leave",
            Message::Leave {
                request: 0,
                durable: false,
                members: MEMBERS.into(),
            },
            json!({"request": "0", "durable": false, "members": members}),
        ),
        (
            "subscribe",
            Message::Subscribe { topics: 1 },
            json!({"topics": 1}),
        ),
        (
            "ping",
            Message::Ping { nonce: 11, low: 12 },
            json!({"nonce": "11", "low": "12"}),
        ),
        (
            "pong",
            Message::Pong { nonce: 11, low: 0 },
            json!({"nonce": "11", "low": "0"}),
        ),
        ("bye", Message::Bye { low: 13 }, json!({"low": "13"})),
        (
            "query",
            Message::Query {
                call: 14,
                what: 3,
                argument: "100 al",
            },
            json!({"call": "14", "what": 3, "argument": "100 al"}),
        ),
    ]
}

fn from_hub() -> Vec<Vector> {
    const RECEIPTS: &[Receipt<'static>] = &[
        Receipt {
            seq: 1,
            outcome: Outcome::Delivered,
            detail: "",
        },
        Receipt {
            seq: 2,
            outcome: Outcome::Refused,
            detail: "unknown player",
        },
    ];
    const ENTRIES: &[ReportEntry<'static>] = &[ReportEntry {
        player: "bob",
        outcome: Outcome::Stored,
        detail: "",
    }];
    const TARGETS: &[Number] = &[
        Number {
            binding: 4_294_967_298,
            number: 1,
        },
        Number {
            binding: 4_294_967_300,
            number: 2,
        },
    ];
    const EVENTS: &[Presence<'static>] = &[Presence {
        event: PresenceKind::Login,
        name: "alice",
        node: "game-1",
    }];
    vec![
        (
            "welcome",
            Message::Welcome(Welcome {
                version: 1,
                hub_epoch: 28_000_001,
                heartbeat_ms: 1_000,
                dead_ms: 3_000,
                spread_ms: 20,
                max_payload: 983_040,
                window_messages: 65_536,
                window_bytes: 16_777_216,
                features: 0,
                slots: (&[SlotRange {
                    first: 0,
                    last: 16_383,
                    hub: "hub",
                }])
                    .into(),
            }),
            json!({"version": 1, "hub_epoch": 28_000_001, "heartbeat_ms": 1000, "dead_ms": 3000, "spread_ms": 20,
                "max_payload": 983_040, "window_messages": 65_536, "window_bytes": 16_777_216,
                "slots": [{"first": 0, "last": 16_383, "hub": "hub"}]}),
        ),
        (
            "receipt",
            Message::Receipt {
                receipts: RECEIPTS.into(),
            },
            json!({"receipts": [{"seq": "1", "outcome": 1, "detail": ""}, {"seq": "2", "outcome": 4, "detail": "unknown player"}]}),
        ),
        (
            "group_receipt",
            Message::GroupReport(GroupReport {
                seq: 6,
                last: true,
                wide: false,
                counts: [1, 1, 0, 0, 0, 0, 0, 0],
                omitted: 1,
                entries: ENTRIES.into(),
            }),
            json!({"seq": "6", "last": true, "counts": [1, 1, 0, 0, 0, 0, 0], "omitted": 1,
                "entries": [{"player": "bob", "outcome": 2, "detail": ""}]}),
        ),
        (
            "bound",
            Message::Bound {
                bound: (&[Bound {
                    player: "alice",
                    login: 4_294_967_297,
                    binding: 4_294_967_298,
                    request: 2,
                }])
                    .into(),
            },
            json!({"bound": [{"player": "alice", "login": "4294967297", "binding": "4294967298", "request": "2"}]}),
        ),
        (
            "deliver",
            Message::Deliver(Deliver {
                id: ID,
                policy: Policy::MustDeliver,
                trace: false,
                content: Content::Text,
                targets: TARGETS.into(),
                payload: b"raid at nine",
            }),
            json!({"id": id(), "policy": 0, "content": 1, "payload": "72616964206174206e696e65",
                "targets": [{"binding": "4294967298", "number": 1}, {"binding": "4294967300", "number": 2}]}),
        ),
        (
            "logout_done",
            Message::LogoutDone {
                player: "alice",
                login: 4_294_967_297,
            },
            json!({"player": "alice", "login": "4294967297"}),
        ),
        (
            "drop",
            Message::Drop {
                player: "alice",
                login: 4_294_967_297,
                why: "a newer login",
            },
            json!({"player": "alice", "login": "4294967297", "why": "a newer login"}),
        ),
        (
            "forget",
            Message::Forget {
                player: "alice",
                binding: 4_294_967_298,
                up_to: ID,
            },
            json!({"player": "alice", "binding": "4294967298", "up_to": id()}),
        ),
        (
            "presence",
            Message::Presence {
                snapshot: true,
                events: EVENTS.into(),
            },
            json!({"snapshot": true, "events": [{"event": 3, "name": "alice", "node": "game-1"}]}),
        ),
        (
            "call",
            Message::Call {
                call: 3,
                deadline_ms: 250,
                from: "cli-lima-1",
                service: "stats",
                content: Content::Json,
                payload: b"{}",
            },
            json!({"call": "3", "deadline_ms": 250, "from": "cli-lima-1", "service": "stats", "content": 2, "payload": "7b7d"}),
        ),
        (
            "answer",
            Message::Answer {
                call: 1,
                status: AnswerStatus::Unknown,
                content: Content::Bytes,
                payload: b"",
            },
            json!({"call": "1", "status": 3, "content": 0, "payload": ""}),
        ),
        (
            "cancelled",
            Message::Cancelled { call: 3 },
            json!({"call": "3"}),
        ),
        (
            "error",
            Message::Error {
                code: ErrorCode::OldEpoch,
                text: "epoch 1, the highest is 2",
            },
            json!({"code": 3, "text": "epoch 1, the highest is 2"}),
        ),
        (
            "joined",
            Message::Joined {
                request: 8,
                ok: false,
                detail: "unknown player",
            },
            json!({"request": "8", "ok": false, "detail": "unknown player"}),
        ),
    ]
}

/// What version 2 adds.
fn from_node_2() -> Vec<Vector> {
    const SEEN: &[Number] = &[Number {
        binding: 4_294_967_298,
        number: 7,
    }];
    let send = |seq, deliver_at_ms, policy, quiet, trace, target, key, payload| {
        Message::Send(Send {
            seq,
            low: 3,
            deadline_ms: 0,
            deliver_at_ms,
            policy,
            resend: false,
            quiet,
            trace,
            content: Content::Bytes,
            target,
            key,
            payload,
        })
    };
    let alice = Target::Player("alice");
    vec![
        (
            "send_latest_quiet",
            send(
                POLICY_SEQ | 5,
                0,
                Policy::Latest,
                true,
                false,
                alice,
                "hp",
                b"70",
            ),
            json!({"seq": (POLICY_SEQ | 5).to_string(), "low": "3", "deadline_ms": "0", "policy": 1, "resend": false,
                "quiet": true, "trace": false, "content": 0, "player": "alice", "key": "hp", "payload": "3730"}),
        ),
        (
            "send_group_traced",
            send(
                6,
                0,
                Policy::MustDeliver,
                false,
                true,
                Target::Group("team-7"),
                "",
                b"go",
            ),
            json!({"seq": "6", "low": "3", "deadline_ms": "0", "policy": 0, "resend": false,
                "quiet": false, "trace": true, "content": 0, "group": "team-7", "key": "", "payload": "676f"}),
        ),
        (
            "send_later",
            send(
                7,
                1_795_000_100_000,
                Policy::MustDeliver,
                false,
                false,
                alice,
                "",
                b"gift",
            ),
            json!({"seq": "7", "low": "3", "deadline_ms": "0", "deliver_at_ms": "1795000100000", "resend": false,
                "trace": false, "content": 0, "player": "alice", "payload": "67696674"}),
        ),
        (
            "seen",
            Message::Seen {
                deliveries: SEEN.into(),
            },
            json!({"deliveries": [{"binding": "4294967298", "number": 7}]}),
        ),
    ]
}

fn from_hub_2() -> Vec<Vector> {
    const RECEIPTS: &[Receipt<'static>] = &[
        Receipt {
            seq: POLICY_SEQ | 5,
            outcome: Outcome::Sent,
            detail: "",
        },
        Receipt {
            seq: 8,
            outcome: Outcome::Refused,
            detail: "mailbox full, 1,000 of 1,000 messages",
        },
    ];
    const ENTRIES: &[ReportEntry<'static>] = &[ReportEntry {
        player: "bob",
        outcome: Outcome::Passed,
        detail: "",
    }];
    const TARGETS: &[Number] = &[Number {
        binding: 4_294_967_298,
        number: 0,
    }];
    vec![
        (
            "welcome_2",
            Message::Welcome(Welcome {
                version: 2,
                hub_epoch: 28_000_001,
                heartbeat_ms: 1_000,
                dead_ms: 3_000,
                spread_ms: 20,
                max_payload: 983_040,
                window_messages: 65_536,
                window_bytes: 16_777_216,
                features: features::ALL,
                slots: (&[SlotRange {
                    first: 0,
                    last: 16_383,
                    hub: "hub",
                }])
                    .into(),
            }),
            json!({"version": 2, "hub_epoch": 28_000_001, "heartbeat_ms": 1000, "dead_ms": 3000, "spread_ms": 20,
                "max_payload": 983_040, "window_messages": 65_536, "window_bytes": 16_777_216, "features": "31",
                "slots": [{"first": 0, "last": 16_383, "hub": "hub"}]}),
        ),
        (
            "receipt_2",
            Message::Receipt {
                receipts: RECEIPTS.into(),
            },
            json!({"receipts": [{"seq": (POLICY_SEQ | 5).to_string(), "outcome": 6, "detail": ""},
                {"seq": "8", "outcome": 4, "detail": "mailbox full, 1,000 of 1,000 messages"}]}),
        ),
        (
            "group_receipt_2",
            Message::GroupReport(GroupReport {
                seq: 6,
                last: true,
                wide: true,
                counts: [1, 1, 0, 0, 0, 0, 0, 1],
                omitted: 2,
                entries: ENTRIES.into(),
            }),
            json!({"seq": "6", "last": true, "counts": [1, 1, 0, 0, 0, 0, 0, 1], "omitted": 2,
                "entries": [{"player": "bob", "outcome": 8, "detail": ""}]}),
        ),
        (
            "deliver_latest",
            Message::Deliver(Deliver {
                id: ID,
                policy: Policy::Latest,
                trace: true,
                content: Content::Bytes,
                targets: TARGETS.into(),
                payload: b"70",
            }),
            json!({"id": id(), "policy": 1, "trace": true, "content": 0, "payload": "3730",
                "targets": [{"binding": "4294967298", "number": 0}]}),
        ),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex"))
        .collect()
}

/// The stored vectors of one file, by name.
fn stored(file: &str) -> BTreeMap<String, (String, Value)> {
    let path = format!(
        "{}/../../tests/vectors/bus/{file}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let all: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let entry = |value: &Value| {
        (
            value["hex"].as_str().expect("hex").to_string(),
            value["fields"].clone(),
        )
    };
    all.iter()
        .map(|value| {
            (
                value["name"].as_str().expect("name").to_string(),
                entry(value),
            )
        })
        .collect()
}

fn check(file: &str, vectors: Vec<Vector>) {
    let mut stored = stored(file);
    for (name, message, fields) in vectors {
        let (bytes, described) = stored
            .remove(name)
            .unwrap_or_else(|| panic!("{name} is not in {file}.json"));
        let mut encoded = Vec::new();
        message
            .encode(&mut encoded)
            .expect("a message that can be written");
        assert_eq!(hex(&encoded), bytes, "{name}");
        assert_eq!(
            decode(&unhex(&bytes)).collect::<Vec<_>>(),
            vec![Ok(message)],
            "{name}"
        );
        assert_eq!(fields, described, "{name}");
    }
    assert!(
        stored.is_empty(),
        "{file}.json has what this test does not know: {stored:?}"
    );
}

#[test]
fn messages_of_nodes_have_their_golden_bytes() {
    check(
        "node_to_hub_v1",
        from_node().into_iter().chain(sends()).collect(),
    );
}

#[test]
fn messages_of_the_hub_have_their_golden_bytes() {
    check("hub_to_node_v1", from_hub());
}

#[test]
fn version_2_has_its_golden_bytes() {
    check("node_to_hub_v2", from_node_2());
    check("hub_to_node_v2", from_hub_2());
}

/// What version 1 said is decoded as before, and what it did not know has no bytes in it.
#[test]
fn version_1_has_no_place_for_what_version_2_adds() {
    for (name, (bytes, _)) in stored("hub_to_node_v1") {
        match decode(&unhex(&bytes)).next() {
            Some(Ok(Message::Welcome(welcome))) => assert_eq!(welcome.features, 0, "{name}"),
            Some(Ok(Message::GroupReport(report))) => {
                assert_eq!((report.wide, report.counts[7]), (false, 0), "{name}");
            }
            other => assert!(other.is_some_and(|message| message.is_ok()), "{name}"),
        }
    }
}
