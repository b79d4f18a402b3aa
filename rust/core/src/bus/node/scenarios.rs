//! The node against a scripted hub: the named scenarios of BUS.md section 12 that a node can break.

use super::cursor::Cursor;
use super::event::NodeEvent;
use super::hosting::{Attached, Delivery};
use super::sender::Recipient;
use super::*;
use crate::bus::message::{
    AnswerStatus, Bound, Deliver, GroupReport, Number, Outcome, Policy, PresenceKind, Receipt,
    ReportEntry, Send, Target,
};
use proptest::prelude::*;

const EPOCH: u64 = 70;

fn id(node_key: u64, seq: u64) -> MessageId {
    MessageId {
        node_key,
        epoch: 1,
        seq,
    }
}

/// A node and the hub's side of its link, in words.
struct Script {
    node: Node,
    now: u64,
    events: Vec<NodeEvent>,
}

fn words(frame: &[u8]) -> Vec<String> {
    decode(frame)
        .map(|message| word(&message.expect("a node writes what can be read")))
        .collect()
}

fn word(message: &Message<'_>) -> String {
    match message {
        Message::Hello(hello) => format!("hello {} {} low {}", hello.name, hello.epoch, hello.low),
        Message::Send(Send {
            seq,
            low,
            resend,
            target,
            payload,
            ..
        }) => {
            let again = if *resend { "again " } else { "" };
            let to = match target {
                Target::Player(name) | Target::Group(name) => (*name).to_owned(),
                Target::Broadcast(scope) => format!("{scope:?}"),
            };
            format!(
                "{again}send {seq} low {low} {to} {}",
                String::from_utf8_lossy(payload)
            )
        }
        Message::Login { claims } => {
            let each: Vec<String> = claims
                .iter()
                .map(|claim| format!("{}#{}", claim.player, claim.request))
                .collect();
            format!("login {}", each.join(" "))
        }
        Message::Register { claims, last } => {
            let each: Vec<String> = claims
                .iter()
                .map(|claim| format!("{}={}#{}", claim.player, claim.login, claim.request))
                .collect();
            format!(
                "register {}{}",
                each.join(" "),
                if *last { "last" } else { "" }
            )
        }
        Message::Logout {
            player,
            login,
            cursor,
        } => {
            let marks: Vec<String> = cursor
                .iter()
                .map(|mark| format!("{}:{}", mark.node_key, mark.seq))
                .collect();
            format!("logout {player}={login} {}", marks.join(" "))
        }
        Message::Ack { acks } => {
            let each: Vec<String> = acks
                .iter()
                .map(|ack| format!("{}:{}", ack.binding, ack.up_to))
                .collect();
            format!("ack {}", each.join(" "))
        }
        Message::Join {
            request,
            durable,
            members,
        } => {
            let each: Vec<String> = members
                .iter()
                .map(|member| format!("{}/{}", member.group, member.player))
                .collect();
            format!("join #{request} {durable} {}", each.join(" "))
        }
        Message::Request { call, service, .. } => format!("request {call} {service}"),
        Message::Reply { call, ok, .. } => format!("reply {call} {ok}"),
        Message::Cancel { call } => format!("cancel {call}"),
        Message::Subscribe { topics } => format!("subscribe {topics}"),
        Message::Ping { low, .. } => format!("ping low {low}"),
        Message::Pong { nonce, .. } => format!("pong {nonce}"),
        Message::Bye { low } => format!("bye {low}"),
        other => format!("{other:?}"),
    }
}

impl Script {
    /// A welcomed node named "n".
    fn up() -> Self {
        let mut script = Self::new();
        script.connect();
        script.welcome(1);
        assert_eq!(script.written(), ["register last"]);
        script.events.clear();
        script
    }

    fn new() -> Self {
        let config = NodeConfig {
            name: "n".into(),
            epoch: EPOCH,
            connection: 5,
            roles: vec!["role".into()],
            next_seq: 1,
        };
        Self {
            node: Node::new(config, 0).unwrap(),
            now: 0,
            events: Vec::new(),
        }
    }

    fn connect(&mut self) {
        while !self.events.contains(&NodeEvent::Connect) {
            self.now = self
                .node
                .poll_timeout()
                .expect("it tries again")
                .max(self.now);
            self.node.handle_timeout(self.now, 0);
            self.take();
        }
        self.events.retain(|event| *event != NodeEvent::Connect);
        let hello = self.written();
        assert!(
            hello.len() == 1 && hello[0].starts_with("hello n 70"),
            "{hello:?}"
        );
    }

    fn welcome(&mut self, hub_epoch: u32) {
        self.hub(&[Message::Welcome(Welcome {
            version: VERSION,
            hub_epoch,
            heartbeat_ms: 1_000,
            dead_ms: 3_000,
            spread_ms: 0,
            max_payload: 1_000,
            window_messages: 100,
            window_bytes: 1 << 20,
            slots: List::Items(&[]),
        })]);
    }

    /// The link is lost, made again and welcomed.
    fn relink(&mut self) {
        self.node.handle_disconnected(self.now, 0, "cut");
        self.connect();
        self.welcome(1);
    }

    fn hub(&mut self, messages: &[Message<'_>]) {
        let mut frame = Vec::new();
        for message in messages {
            message.encode(&mut frame).unwrap();
        }
        self.node.handle_frame(self.now, 0, &frame);
        self.take();
    }

    fn take(&mut self) {
        self.events
            .extend(std::iter::from_fn(|| self.node.poll_event()));
    }

    fn written(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.node.poll_frame(self.now))
            .flat_map(|frame| words(&frame))
            .collect()
    }

    fn send(&mut self, player: &str, payload: &str) -> u64 {
        self.node
            .send(
                Recipient::Player(player.into()),
                Content::Text,
                payload.as_bytes(),
                None,
            )
            .unwrap()
    }

    fn receipt(&mut self, seq: u64, outcome: Outcome) {
        self.hub(&[Message::Receipt {
            receipts: List::Items(&[Receipt {
                seq,
                outcome,
                detail: "",
            }]),
        }]);
    }

    fn receipts(&mut self) -> Vec<(u64, Outcome)> {
        let all = self.events.drain(..);
        all.filter_map(|event| match event {
            NodeEvent::Receipt { seq, outcome, .. } => Some((seq, outcome)),
            _ => None,
        })
        .collect()
    }

    /// The player is hosted under this login and binding.
    fn host(&mut self, player: &str, login: u64, binding: u64, cursor: &[MessageId]) {
        let attached = self
            .node
            .attach(player, 0, cursor.iter().copied().collect())
            .unwrap();
        assert_eq!(attached, Attached::LoginPending);
        self.bound_last_request(player, login, binding);
        assert_eq!(
            self.events.pop(),
            Some(NodeEvent::Bound {
                player: player.into(),
                login
            })
        );
    }

    /// Answers what the node has just asked for this player.
    fn bound_last_request(&mut self, player: &str, login: u64, binding: u64) -> Vec<String> {
        let written = self.written();
        let asked = written
            .iter()
            .rev()
            .find(|word| word.contains(player) && word.contains('#'))
            .expect("asked");
        let request = asked
            .split(' ')
            .find(|part| part.starts_with(player))
            .unwrap()
            .split('#')
            .nth(1)
            .unwrap();
        self.bound(player, login, binding, request.parse().unwrap());
        written
    }

    fn bound(&mut self, player: &str, login: u64, binding: u64, request: u64) {
        self.hub(&[Message::Bound {
            bound: List::Items(&[Bound {
                player,
                login,
                binding,
                request,
            }]),
        }]);
    }

    fn deliver(&mut self, binding: u64, number: u32, message: MessageId) {
        self.hub(&[Message::Deliver(Deliver {
            id: message,
            policy: Policy::MustDeliver,
            content: Content::Bytes,
            targets: List::Items(&[Number { binding, number }]),
            payload: b"x",
        })]);
    }

    /// Messages that the owner was given: player and seq.
    fn shown(&mut self) -> Vec<(String, u64)> {
        let all = self.events.drain(..);
        all.filter_map(|event| match event {
            NodeEvent::Message { player, id, .. } => Some((player, id.seq)),
            _ => None,
        })
        .collect()
    }
}

fn seqs(pending: &[Delivery]) -> Vec<u64> {
    pending.iter().map(|delivery| delivery.id.seq).collect()
}

// --- sender -------------------------------------------------------------------------------------------------

#[test]
fn resend_goes_before_new() {
    let mut script = Script::up();
    script.send("p", "m1");
    script.send("q", "m2");
    assert_eq!(script.written(), ["send 1 low 1 p m1", "send 2 low 1 q m2"]);
    script.node.handle_disconnected(script.now, 0, "hub killed");
    script.send("p", "m3");
    script.connect();
    script.welcome(2);
    let expected = [
        "register last",
        "again send 1 low 1 p m1",
        "again send 2 low 1 q m2",
        "send 3 low 1 p m3",
    ];
    assert_eq!(script.written(), expected);
}

#[test]
fn receipt_lost_with_sender_link() {
    let mut script = Script::up();
    script.send("p", "m1");
    script.send("p", "m2");
    script.written();
    for _ in 0..100 {
        script.relink();
        assert_eq!(
            script.written(),
            [
                "register last",
                "again send 1 low 1 p m1",
                "again send 2 low 1 p m2"
            ]
        );
    }
    script.receipt(2, Outcome::Stored);
    script.receipt(1, Outcome::Delivered);
    script.receipt(1, Outcome::Stored); // of an earlier resend: ignored
    assert_eq!(
        script.receipts(),
        [(2, Outcome::Stored), (1, Outcome::Delivered)]
    );
    script.relink();
    assert_eq!(script.written(), ["register last"]);
}

#[test]
fn low_is_the_smallest_without_final_receipt() {
    let mut script = Script::up();
    for payload in ["a", "b", "c"] {
        script.send("p", payload);
    }
    script.written();
    script.receipt(1, Outcome::Refused);
    script.receipt(3, Outcome::Stored);
    assert_eq!(script.send("p", "d"), 4);
    assert_eq!(script.written(), ["send 4 low 2 p d"]);
    script.receipt(2, Outcome::Stored);
    script.receipt(4, Outcome::Stored);
    script.node.handle_close();
    assert_eq!(script.written(), ["bye 5"]);
}

#[test]
fn no_goodbye_while_something_may_have_to_be_sent_again() {
    let mut script = Script::up();
    script.send("p", "a");
    script.written();
    script.node.handle_close();
    assert_eq!(script.written(), Vec::<String>::new());
}

#[test]
fn busy_holds_back_every_later_one_to_that_player() {
    let mut script = Script::up();
    for (player, payload) in [("p", "1"), ("q", "2"), ("p", "3")] {
        script.send(player, payload);
    }
    script.written();
    script.receipt(1, Outcome::Busy);
    script.send("p", "4");
    script.send("q", "5");
    assert_eq!(script.written(), ["send 5 low 1 q 5"]);
    script.receipt(3, Outcome::Busy);
    script.receipt(2, Outcome::Stored);
    script.receipt(5, Outcome::Stored);
    script.now = script.node.poll_timeout().unwrap();
    script.node.handle_timeout(script.now, 0);
    let again = [
        "again send 1 low 1 p 1",
        "again send 3 low 1 p 3",
        "send 4 low 1 p 4",
    ];
    assert_eq!(script.written(), again);
    let first_wait = script.now;
    script.receipt(1, Outcome::Busy);
    let second_wait = script.node.poll_timeout().unwrap();
    assert!(
        second_wait - first_wait > first_wait,
        "the wait doubles: {first_wait} {second_wait}"
    );
    assert_eq!(
        script.receipts(),
        [(2, Outcome::Stored), (5, Outcome::Stored)]
    );
}

#[test]
fn group_resend_after_half_the_acks() {
    let mut script = Script::up();
    script
        .node
        .send(Recipient::Group("g".into()), Content::Text, b"m", None)
        .unwrap();
    script.written();
    let part = |entries: &[(&'static str, Outcome)], last: bool, script: &mut Script| {
        let entries: Vec<ReportEntry<'_>> = entries
            .iter()
            .map(|&(player, outcome)| ReportEntry {
                player,
                outcome,
                detail: "",
            })
            .collect();
        let mut counts = [0; 7];
        if last {
            entries
                .iter()
                .for_each(|entry| counts[entry.outcome as usize - 1] += 1);
        }
        let entries = List::Items(&entries);
        script.hub(&[Message::GroupReport(GroupReport {
            seq: 1,
            last,
            counts,
            omitted: 0,
            entries,
        })]);
    };
    part(&[("a", Outcome::Delivered)], false, &mut script);
    script.relink();
    assert_eq!(
        script.written(),
        ["register last", "again send 1 low 1 g m"]
    );
    part(
        &[("a", Outcome::Stored), ("b", Outcome::Delivered)],
        true,
        &mut script,
    );
    let Some(NodeEvent::Report { seq: 1, report }) = script.events.pop() else {
        panic!("{:?}", script.events)
    };
    assert_eq!(report.counts, [2, 0, 0, 0, 0, 0, 0]);
    let players: Vec<_> = report
        .players
        .into_iter()
        .map(|(name, (outcome, _))| (name, outcome))
        .collect();
    assert_eq!(
        players,
        [
            ("a".to_owned(), Outcome::Delivered),
            ("b".to_owned(), Outcome::Delivered)
        ]
    );
}

#[test]
fn a_full_window_says_so_and_opens_with_receipts() {
    let mut script = Script::up();
    for _ in 0..100 {
        script.send("p", "m");
    }
    let more = script
        .node
        .send(Recipient::Player("p".into()), Content::Text, b"m", None);
    assert_eq!(more, Err(NodeError::Full));
    script.receipt(50, Outcome::Stored);
    script.send("p", "m");
}

#[test]
fn bad_names_and_sizes_never_enter_the_window() {
    let mut script = Script::up();
    for (player, payload) in [("", 1), ("a\nb", 1), ("ok", 1_001)] {
        let sent = script.node.send(
            Recipient::Player(player.into()),
            Content::Text,
            &vec![0; payload],
            None,
        );
        assert!(
            matches!(sent, Err(NodeError::Wire(_))),
            "{player:?} {payload}"
        );
    }
    assert_eq!(script.node.unreceipted(), 0);
}

#[test]
fn a_message_is_repeated_under_its_own_id_and_marked_so() {
    let mut script = Script::up();
    script
        .node
        .send(Recipient::Player("p".into()), Content::Text, b"m", Some(9))
        .unwrap();
    assert_eq!(script.written(), ["again send 9 low 9 p m"]);
    let lower = script
        .node
        .send(Recipient::Player("p".into()), Content::Text, b"m", Some(8));
    assert_eq!(lower, Err(NodeError::SeqUsed));
    assert_eq!(script.send("p", "n"), 10);
}

// --- hosting ------------------------------------------------------------------------------------------------

#[test]
fn delivered_only_after_client_ack() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[]);
    script.deliver(21, 1, id(1, 1));
    script.deliver(21, 2, id(2, 1));
    script.deliver(21, 3, id(1, 2));
    assert_eq!(
        script.shown(),
        [("p".into(), 1), ("p".into(), 1), ("p".into(), 2)]
    );
    assert_eq!(script.written(), Vec::<String>::new());
    script.node.handled("p", id(2, 1));
    assert_eq!(
        script.written(),
        Vec::<String>::new(),
        "number 1 is not handled yet"
    );
    script.node.handled("p", id(1, 1));
    assert_eq!(script.written(), ["ack 21:2"]);
    script.node.handled("p", id(1, 2));
    assert_eq!(script.written(), ["ack 21:3"]);
}

#[test]
fn resend_after_hub_kill_is_handled_once() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[]);
    script.deliver(21, 1, id(1, 1));
    script.node.handled("p", id(1, 1));
    assert_eq!(script.written(), ["ack 21:1"]);
    script.shown();
    script.relink();
    let written = script.bound_last_request("p", 11, 22);
    assert_eq!(written, ["register p=11#2", "register last"]);
    script.deliver(22, 1, id(1, 1));
    assert_eq!(script.shown(), []);
    assert_eq!(script.written(), ["ack 22:1"]);
}

#[test]
fn what_is_being_handled_over_a_new_binding_is_not_shown_twice() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[]);
    script.deliver(21, 1, id(1, 1));
    assert_eq!(script.shown().len(), 1);
    script.relink();
    script.bound_last_request("p", 11, 22);
    script.deliver(22, 1, id(1, 1));
    script.deliver(22, 2, id(1, 2));
    assert_eq!(script.shown(), [("p".into(), 2)]);
    script.node.handled("p", id(1, 1));
    assert_eq!(script.written(), ["ack 22:1"]);
}

#[test]
fn client_cursor_survives_dead_node() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[id(1, 1)]);
    script.deliver(21, 1, id(1, 1));
    script.deliver(21, 2, id(1, 2));
    assert_eq!(script.shown(), [("p".into(), 2)]);
    assert_eq!(script.written(), ["ack 21:1"]);
}

#[test]
fn ack_of_old_binding_is_never_written() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[]);
    script.deliver(21, 1, id(1, 1));
    script.node.handled("p", id(1, 1)); // its ack is in line when the link breaks
    script.relink();
    script.bound_last_request("p", 11, 22);
    assert_eq!(script.written(), Vec::<String>::new());
    script.deliver(21, 2, id(1, 2)); // of the old binding: not for us
    script.shown();
    script.node.handled("p", id(1, 2));
    assert_eq!(script.written(), Vec::<String>::new());
}

#[test]
fn abandoned_login_is_answered_late() {
    let mut script = Script::up();
    script.node.attach("p", 0, Cursor::default()).unwrap();
    assert_eq!(script.written(), ["login p#1"]);
    script.node.attach("p", 0, Cursor::default()).unwrap();
    assert_eq!(script.written(), ["login p#2"]);
    script.bound("p", 11, 21, 1);
    assert_eq!(script.events, []);
    script.deliver(21, 1, id(1, 1));
    assert_eq!(script.shown(), []);
    script.bound("p", 12, 22, 2);
    assert_eq!(
        script.events,
        [NodeEvent::Bound {
            player: "p".into(),
            login: 12
        }]
    );
}

#[test]
fn new_client_on_stale_host() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[]);
    script.deliver(21, 1, id(1, 1));
    script.shown();
    assert_eq!(
        script.node.attach("p", 99, Cursor::default()),
        Ok(Attached::LoginPending)
    );
    assert_eq!(script.written(), ["login p#2"]);
    script.deliver(21, 2, id(1, 2));
    assert_eq!(script.shown(), [], "no stale frame");
    script.hub(&[Message::Drop {
        player: "p",
        login: 11,
        why: "replaced",
    }]);
    assert_eq!(
        script.events,
        [],
        "the login that was given up is not the new one"
    );
}

#[test]
fn a_client_that_names_the_login_resumes_in_place() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[]);
    for seq in 1..=3 {
        script.deliver(21, seq as u32, id(1, seq));
    }
    script.shown();
    script.node.detach(script.now, "p");
    script.deliver(21, 4, id(1, 4));
    assert_eq!(script.shown(), [], "there is no client to show it to");
    let resumed = script
        .node
        .attach("p", 11, Cursor::from_iter([id(1, 2)]))
        .unwrap();
    let Attached::Resumed(pending) = resumed else {
        panic!("{resumed:?}")
    };
    assert_eq!(seqs(&pending), [3, 4]);
    assert_eq!(script.written(), ["ack 21:2"]);
    script.deliver(21, 5, id(1, 5));
    assert_eq!(script.shown(), [("p".into(), 5)]);
}

#[test]
fn a_resume_before_the_redelivery_still_shows_it() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[]);
    script.deliver(21, 1, id(1, 1));
    script.shown();
    script.relink();
    script.bound_last_request("p", 11, 22);
    let resumed = script.node.attach("p", 11, Cursor::default()).unwrap();
    assert_eq!(resumed, Attached::Resumed(Vec::new()));
    script.deliver(22, 1, id(1, 1));
    assert_eq!(script.shown(), [("p".into(), 1)]);
}

#[test]
fn logout_carries_cursor_and_is_repeated_until_done() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[id(3, 8)]);
    script.deliver(21, 1, id(1, 1));
    script.shown();
    script.node.handled("p", id(1, 1));
    assert!(script.node.leave_player("p"));
    assert_eq!(
        script.written(),
        ["logout p=11 1:1 3:8"],
        "no ack after it, and the cursor has all"
    );
    script.node.handled("p", id(1, 2));
    script.relink();
    assert_eq!(script.written(), ["logout p=11 1:1 3:8", "register last"]);
    script.hub(&[Message::LogoutDone {
        player: "p",
        login: 11,
    }]);
    assert!(
        script
            .events
            .contains(&NodeEvent::LoggedOut { player: "p".into() })
    );
    assert!(!script.node.leave_player("p"));
    script.relink();
    assert_eq!(script.written(), ["register last"]);
}

#[test]
fn an_attach_during_a_logout_waits_for_its_end() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[]);
    script.node.leave_player("p");
    script.written();
    assert_eq!(
        script.node.attach("p", 11, Cursor::default()),
        Ok(Attached::LoginPending)
    );
    assert_eq!(script.written(), Vec::<String>::new());
    script.hub(&[Message::LogoutDone {
        player: "p",
        login: 11,
    }]);
    assert_eq!(script.written(), ["login p#2"]);
}

#[test]
fn a_gone_client_is_logged_out_after_the_grace_time() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[]);
    script.node.detach(script.now, "p");
    let until = script.now + limits::CLIENT_GRACE_MS;
    while script.now < until {
        assert!(script.node.login_of("p").is_some());
        script.now = script.node.poll_timeout().unwrap();
        script.node.handle_timeout(script.now, 0);
        script.hub(&[Message::Pong { nonce: 0, low: 0 }]);
    }
    assert!(script.written().contains(&"logout p=11 ".to_owned()));
}

#[test]
fn a_dropped_player_is_discarded_with_its_memberships() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[]);
    script.node.member(true, false, "g", "p").unwrap();
    script.hub(&[Message::Joined {
        request: 1,
        ok: true,
        detail: "",
    }]);
    script.written();
    script.hub(&[Message::Drop {
        player: "p",
        login: 11,
        why: "newer login",
    }]);
    assert_eq!(
        script.events.pop(),
        Some(NodeEvent::Dropped {
            player: "p".into(),
            why: "newer login".into()
        })
    );
    script.relink();
    assert_eq!(script.written(), ["register last"]);
}

#[test]
fn forget_removes_the_mark_here_and_tells_the_client() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[id(1, 4), id(2, 4)]);
    script.hub(&[Message::Forget {
        player: "p",
        binding: 20,
        up_to: id(2, 9),
    }]);
    assert_eq!(script.events, [], "of another binding");
    script.hub(&[Message::Forget {
        player: "p",
        binding: 21,
        up_to: id(1, 4),
    }]);
    assert_eq!(
        script.events,
        [NodeEvent::Forget {
            player: "p".into(),
            up_to: id(1, 4)
        }]
    );
    script.node.leave_player("p");
    assert_eq!(script.written(), ["logout p=11 2:4"]);
}

#[test]
fn a_gap_in_the_numbers_makes_the_link_anew() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[]);
    script.deliver(21, 2, id(1, 2));
    assert_eq!(script.shown(), []);
    assert!(!script.node.is_up());
    assert_eq!(script.node.counters().violations, 1);
    script.connect();
}

#[test]
fn registration_comes_before_sends_and_is_closed_by_last() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[]);
    script.host("q", 12, 22, &[]);
    script.node.leave_player("q");
    script.node.attach("r", 0, Cursor::default()).unwrap();
    script.node.member(true, false, "g", "p").unwrap();
    script.node.member(true, true, "d", "x").unwrap();
    script.node.subscribe(1);
    script.send("z", "m");
    script.written();
    script.relink();
    let expected = [
        "logout q=12 ",
        "register p=11#4",
        "login r#6",
        "join #0 false g/p",
        "join #1 false g/p",
        "join #2 true d/x",
        "register last",
        "subscribe 1",
        "again send 1 low 1 z m",
    ];
    assert_eq!(script.written(), expected);
}

// --- calls --------------------------------------------------------------------------------------------------

#[test]
fn a_request_is_at_most_once() {
    let mut script = Script::new();
    let early = script
        .node
        .request(0, "svc", Content::Text, b"a", 5_000)
        .unwrap();
    script.connect();
    script.welcome(1);
    assert_eq!(
        script.written(),
        ["register last", "request 1 svc"],
        "it waited for the link"
    );
    script.relink();
    assert_eq!(script.written(), ["register last"], "never a second time");
    let answer = |event: &NodeEvent| match event {
        NodeEvent::Answer { call, status, .. } => Some((*call, *status)),
        _ => None,
    };
    let answers: Vec<_> = script.events.iter().filter_map(answer).collect();
    assert_eq!(answers, [(early, AnswerStatus::Unknown)]);
}

#[test]
fn a_request_ends_at_its_deadline_and_is_cancelled() {
    let mut script = Script::up();
    let call = script
        .node
        .request(script.now, "svc", Content::Text, b"a", 700)
        .unwrap();
    script.written();
    script.now = script.node.poll_timeout().unwrap();
    script.node.handle_timeout(script.now, 0);
    script.take();
    assert_eq!(script.written(), ["cancel 1"]);
    assert!(
        matches!(script.events[..], [NodeEvent::Answer { call: c, status: AnswerStatus::Deadline, .. }] if c == call)
    );
}

#[test]
fn calls_of_a_lost_link_are_cancelled_and_their_replies_go_nowhere() {
    let mut script = Script::up();
    let call = Message::Call {
        call: 900,
        from: "other",
        deadline_ms: 5,
        service: "role",
        content: Content::Text,
        payload: b"?",
    };
    script.hub(&[call]);
    let Some(NodeEvent::Call { call: first, .. }) = script.events.pop() else {
        panic!("{:?}", script.events)
    };
    script.relink();
    assert!(
        script
            .events
            .contains(&NodeEvent::CallCancelled { call: first })
    );
    script.hub(&[call]); // the same number, from another hub
    let Some(NodeEvent::Call { call: second, .. }) = script.events.pop() else {
        panic!("{:?}", script.events)
    };
    script.written();
    assert_eq!(
        script.node.reply(first, true, Content::Text, b"late"),
        Ok(false)
    );
    assert_eq!(
        script.node.reply(second, true, Content::Text, b"now"),
        Ok(true)
    );
    assert_eq!(script.written(), ["reply 900 true"]);
}

// --- link ---------------------------------------------------------------------------------------------------

#[test]
fn a_welcome_below_the_highest_hub_epoch_is_refused() {
    let mut script = Script::new();
    script.connect();
    script.welcome(7);
    script.node.handle_disconnected(script.now, 0, "cut");
    script.connect();
    script.welcome(6);
    assert!(!script.node.is_up());
    script.connect();
    script.welcome(7);
    assert!(script.node.is_up());
}

#[test]
fn refusals_that_no_retry_mends_end_the_node() {
    for code in [
        ErrorCode::OldEpoch,
        ErrorCode::NameTaken,
        ErrorCode::NotAllowed,
        ErrorCode::Version,
    ] {
        let mut script = Script::new();
        script.connect();
        script.hub(&[Message::Error { code, text: "no" }]);
        assert!(script.events.contains(&NodeEvent::Refused {
            code: code as u16,
            text: "no".into()
        }));
        assert_eq!(script.node.poll_timeout(), None);
        let sent = script
            .node
            .send(Recipient::Player("p".into()), Content::Text, b"m", None);
        assert_eq!(sent, Err(NodeError::Ended));
    }
}

#[test]
fn a_silent_hub_is_pinged_then_given_up() {
    let mut script = Script::up();
    let mut pings = 0;
    while script.node.is_up() {
        script.now = script.node.poll_timeout().unwrap();
        script.node.handle_timeout(script.now, 0);
        pings += script
            .written()
            .iter()
            .filter(|word| word.starts_with("ping"))
            .count();
    }
    assert_eq!((script.now, pings), (3_000, 2));
    script.connect();
    script.hub(&[Message::Ping { nonce: 5, low: 0 }]);
    assert_eq!(script.written(), ["pong 5"]);
}

#[test]
fn presence_is_asked_for_after_each_welcome() {
    let mut script = Script::new();
    script.node.subscribe(1);
    script.connect();
    script.welcome(1);
    assert_eq!(script.written(), ["register last", "subscribe 1"]);
    let events = [Presence {
        event: PresenceKind::Login,
        name: "p",
        node: "n",
    }];
    script.hub(&[Message::Presence {
        snapshot: true,
        events: List::Items(&events),
    }]);
    let entries = vec![(PresenceKind::Login, "p".to_owned(), "n".to_owned())];
    assert_eq!(
        script.events.pop(),
        Some(NodeEvent::Presence {
            snapshot: true,
            entries
        })
    );
}

#[test]
fn what_comes_before_the_welcome_or_on_a_dead_link_is_not_obeyed() {
    let mut script = Script::new();
    script.send("p", "m");
    script.connect();
    script.receipt(1, Outcome::Delivered);
    assert_eq!(script.receipts(), []);
    assert!(!script.node.is_up());
    script.receipt(1, Outcome::Delivered);
    assert_eq!(script.receipts(), []);
}

proptest! {
    #[test]
    fn any_bytes_of_a_hub_are_survived(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..8)) {
        let mut script = Script::up();
        script.host("p", 11, 21, &[]);
        for frame in &frames {
            script.node.handle_frame(script.now, 7, frame);
            while script.node.poll_event().is_some() {}
            while script.node.poll_frame(script.now).is_some() {}
            if !script.node.is_up() {
                script.connect();
                script.welcome(1);
            }
        }
    }
}
