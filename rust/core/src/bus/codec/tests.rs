//! Round trips of any message, and any bytes.

use super::*;
use crate::bus::message::{
    Ack, AnswerStatus, Bound, Claim, Deliver, ErrorCode, GroupReport, Hello, Member, MessageId,
    Number, Outcome, Policy, Presence, PresenceKind, Receipt, ReportEntry, Scope, Send, SlotRange,
    Welcome,
};
use crate::limits::{MAX_LIST_ITEMS, MAX_PAYLOAD_BYTES};
use proptest::collection::vec;
use proptest::prelude::*;

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9:_/é-]{1,40}"
}

fn id() -> impl Strategy<Value = MessageId> {
    (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(node_key, epoch, seq)| MessageId {
        node_key,
        epoch,
        seq,
    })
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    use Outcome::{Busy, Delivered, Dropped, Expired, Passed, Refused, Sent, Stored};
    proptest::sample::select(vec![
        Delivered, Stored, Expired, Refused, Busy, Sent, Dropped, Passed,
    ])
}

/// Everything that any kind borrows, so that messages can be made from it by kind.
#[derive(Debug, Clone)]
struct Parts {
    names: Vec<String>,
    text: String,
    payload: Vec<u8>,
    numbers: [u64; 6],
    ids: Vec<MessageId>,
    outcome: Outcome,
    flag: bool,
    content: Content,
}

fn parts() -> impl Strategy<Value = Parts> {
    let small = (
        any::<[u64; 6]>(),
        vec(id(), 0..5),
        outcomes(),
        any::<bool>(),
        0u8..3,
    );
    let heap = (vec(name(), 1..6), "[ -~é]{0,80}", vec(any::<u8>(), 0..300));
    (small, heap).prop_map(
        |((numbers, ids, outcome, flag, content), (names, text, payload))| {
            let content = [Content::Bytes, Content::Text, Content::Json][content as usize];
            Parts {
                names,
                text,
                payload,
                numbers,
                ids,
                outcome,
                flag,
                content,
            }
        },
    )
}

/// Calls `check` with one message of every kind.
fn every_kind(parts: &Parts, mut check: impl FnMut(Message<'_>)) {
    let Parts {
        text,
        payload,
        numbers: n,
        outcome,
        flag,
        content,
        ..
    } = parts;
    let (player, flag, content, outcome) = (parts.names[0].as_str(), *flag, *content, *outcome);
    let low32 = n[0] as u32;
    let names: Vec<&str> = parts.names.iter().map(String::as_str).collect();
    let claims: Vec<_> = names
        .iter()
        .map(|name| Claim {
            player: name,
            login: n[1],
            request: n[2],
        })
        .collect();
    let members: Vec<_> = names
        .iter()
        .map(|name| Member {
            group: player,
            player: name,
        })
        .collect();
    let acks: Vec<_> = parts
        .ids
        .iter()
        .map(|id| Ack {
            binding: id.seq,
            up_to: id.epoch as u32,
        })
        .collect();
    let targets: Vec<_> = parts
        .ids
        .iter()
        .map(|id| Number {
            binding: id.seq,
            number: id.epoch as u32,
        })
        .collect();
    let receipts: Vec<_> = parts
        .ids
        .iter()
        .map(|id| Receipt {
            seq: id.seq,
            outcome,
            detail: text,
        })
        .collect();
    let entries: Vec<_> = names
        .iter()
        .map(|name| ReportEntry {
            player: name,
            outcome,
            detail: text,
        })
        .collect();
    let bound: Vec<_> = names
        .iter()
        .map(|name| Bound {
            player: name,
            login: n[0],
            binding: n[1],
            request: n[2],
        })
        .collect();
    let events: Vec<_> = names
        .iter()
        .map(|name| Presence {
            event: PresenceKind::Login,
            name,
            node: player,
        })
        .collect();
    let slots: Vec<_> = names
        .iter()
        .map(|hub| SlotRange {
            first: n[0] as u16,
            last: n[1] as u16,
            hub,
        })
        .collect();
    let up_to = MessageId {
        node_key: n[0],
        epoch: n[1],
        seq: n[2],
    };

    check(Message::Hello(Hello {
        version_min: n[0] as u16,
        version_max: n[1] as u16,
        node_key: n[2],
        epoch: n[3],
        connection: n[4],
        highest_hub_epoch: low32,
        low: n[5],
        features: n[1],
        name: player,
        roles: (&names).into(),
    }));
    for target in [
        Target::Player(player),
        Target::Group(player),
        Target::Broadcast(Scope::Nodes),
    ] {
        check(Message::Send(Send {
            seq: n[0],
            low: n[1],
            deadline_ms: n[2],
            deliver_at_ms: 0,
            policy: Policy::Latest,
            resend: flag,
            quiet: n[3] & 1 != 0,
            trace: n[3] & 2 != 0,
            content,
            target,
            key: text,
            payload,
        }));
    }
    check(Message::Send(Send {
        seq: n[0],
        low: n[1],
        deadline_ms: n[2],
        deliver_at_ms: n[3].max(1),
        policy: Policy::MustDeliver,
        resend: flag,
        quiet: false,
        trace: n[4] & 1 != 0,
        content,
        target: Target::Player(player),
        key: "",
        payload,
    }));
    check(Message::Seen {
        deliveries: (&targets).into(),
    });
    check(Message::Request {
        call: n[0],
        deadline_ms: low32,
        service: player,
        content,
        payload,
    });
    check(Message::Reply {
        call: n[0],
        ok: flag,
        content,
        payload,
    });
    check(Message::Cancel { call: n[0] });
    check(Message::Login {
        claims: (&claims).into(),
    });
    check(Message::Register {
        claims: (&claims).into(),
        last: flag,
    });
    check(Message::Logout {
        player,
        login: n[0],
        cursor: (&parts.ids).into(),
    });
    check(Message::Ack {
        acks: (&acks).into(),
    });
    check(Message::Join {
        request: n[0],
        durable: flag,
        members: (&members).into(),
    });
    check(Message::Leave {
        request: n[0],
        durable: flag,
        members: (&members).into(),
    });
    check(Message::Subscribe { topics: n[0] as u8 });
    check(Message::Ping {
        nonce: n[0],
        low: n[1],
    });
    check(Message::Pong {
        nonce: n[0],
        low: n[1],
    });
    check(Message::Bye { low: n[0] });
    check(Message::Query {
        call: n[0],
        what: n[1] as u8,
        argument: text,
    });
    check(Message::Welcome(Welcome {
        version: n[0] as u16,
        hub_epoch: low32,
        heartbeat_ms: low32,
        dead_ms: low32,
        spread_ms: low32,
        max_payload: low32,
        window_messages: low32,
        window_bytes: low32,
        features: if n[0] as u16 >= 2 { n[1] } else { 0 },
        slots: (&slots).into(),
    }));
    check(Message::Receipt {
        receipts: (&receipts).into(),
    });
    check(Message::GroupReport(GroupReport {
        seq: n[0],
        last: flag,
        wide: true,
        counts: [low32; 8],
        omitted: low32,
        entries: (&entries).into(),
    }));
    check(Message::GroupReport(GroupReport {
        seq: n[0],
        last: flag,
        wide: false,
        counts: [low32, 1, 2, 3, 4, 5, 6, 0],
        omitted: low32,
        entries: (&entries).into(),
    }));
    check(Message::Bound {
        bound: (&bound).into(),
    });
    let id = up_to;
    check(Message::Deliver(Deliver {
        id,
        policy: Policy::Droppable,
        trace: flag,
        content,
        targets: (&targets).into(),
        payload,
    }));
    check(Message::LogoutDone {
        player,
        login: n[0],
    });
    check(Message::Drop {
        player,
        login: n[0],
        why: text,
    });
    check(Message::Forget {
        player,
        binding: n[0],
        up_to,
    });
    check(Message::Presence {
        snapshot: flag,
        events: (&events).into(),
    });
    check(Message::Call {
        call: n[0],
        deadline_ms: low32,
        from: player,
        service: player,
        content,
        payload,
    });
    check(Message::Answer {
        call: n[0],
        status: AnswerStatus::Deadline,
        content,
        payload,
    });
    check(Message::Cancelled { call: n[0] });
    check(Message::Error {
        code: ErrorCode::Replaced,
        text,
    });
    check(Message::Joined {
        request: n[0],
        ok: flag,
        detail: text,
    });
}

proptest! {
    #[test]
    fn every_kind_survives_the_round_trip(parts in parts()) {
        let mut frame = Vec::new();
        let mut kinds = 0;
        every_kind(&parts, |message| {
            let start = frame.len();
            message.encode(&mut frame).unwrap();
            let decoded: Vec<_> = decode(&frame[start..]).collect();
            assert_eq!(decoded, vec![Ok(message)]);
            kinds += 1;
        });
        prop_assert_eq!(decode(&frame).filter(Result::is_ok).count(), kinds);
    }

    #[test]
    fn any_bytes_give_messages_or_one_error(frame in vec(any::<u8>(), 0..600)) {
        let results: Vec<_> = decode(&frame).collect();
        prop_assert!(results.iter().rev().skip(1).all(Result::is_ok));
    }

    #[test]
    fn a_changed_byte_gives_a_message_or_an_error(parts in parts(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        every_kind(&parts, |message| {
            let mut frame = Vec::new();
            message.encode(&mut frame).unwrap();
            let at = at.index(frame.len());
            frame[at] = to;
            for message in decode(&frame).flatten() {
                // What decodes encodes again, to the same meaning.
                let mut again = Vec::new();
                message.encode(&mut again).unwrap();
                assert_eq!(decode(&again).collect::<Vec<_>>(), vec![Ok(message)]);
            }
        });
    }

    #[test]
    fn every_prefix_is_truncated(parts in parts()) {
        every_kind(&parts, |message| {
            let mut frame = Vec::new();
            message.encode(&mut frame).unwrap();
            for length in 1..frame.len() {
                let error = decode(&frame[..length]).next().unwrap().unwrap_err();
                assert_eq!(error.kind, WireErrorKind::Truncated);
            }
        });
    }
}

fn error_of(message: &[u8]) -> WireError {
    decode(message).next().unwrap().unwrap_err()
}

#[test]
fn a_length_over_the_limit_is_refused_before_its_bytes_are_there() {
    let error = error_of(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0]);
    assert_eq!(
        (error.kind, error.value),
        (WireErrorKind::OverLimit, 0xffff_ffff)
    );
}

#[test]
fn a_count_over_the_limit_is_refused_before_its_items_are_there() {
    let error = error_of(&[12, 0, 0, 0, 0x0b, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(
        (error.kind, error.limit),
        (WireErrorKind::OverLimit, MAX_LIST_ITEMS as u64)
    );
}

#[test]
fn flags_without_meaning_are_refused() {
    for (kind, flags) in [
        (0x02, 0x03),
        (0x02, 0x20),
        (0x02, 0x80),
        (0x13, 0x08),
        (0x45, 0x08),
        (0x14, 0x01),
    ] {
        assert_eq!(
            error_of(&[8, 0, 0, 0, kind, flags, 0, 0]).kind,
            WireErrorKind::BadValue
        );
    }
}

#[test]
fn names_are_not_empty_and_have_no_control_characters() {
    for bad in ["", "a\nb", "\u{7f}", "a\u{85}"] {
        let error = Message::LogoutDone {
            player: bad,
            login: 1,
        }
        .encode(&mut Vec::new())
        .unwrap_err();
        assert_eq!(error.kind, WireErrorKind::BadName);
    }
    for good in ["a", "Zoë ©", "日本"] {
        Message::LogoutDone {
            player: good,
            login: 1,
        }
        .encode(&mut Vec::new())
        .unwrap();
    }
}

#[test]
fn what_is_too_long_leaves_the_buffer_as_it_was() {
    let mut out = vec![7];
    let payload = vec![0; MAX_PAYLOAD_BYTES + 1];
    let message = Message::Reply {
        call: 1,
        ok: true,
        content: Content::Bytes,
        payload: &payload,
    };
    assert_eq!(
        message.encode(&mut out).unwrap_err().kind,
        WireErrorKind::OverLimit
    );
    assert_eq!(out, vec![7]);
}

#[test]
fn the_node_key_is_fnv_1a() {
    use crate::bus::message::node_key;
    assert_eq!(node_key(""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(node_key("a"), 0xaf63_dc4c_8601_ec8c);
    assert_eq!(node_key("foobar"), 0x8594_4171_f739_67e8);
}
