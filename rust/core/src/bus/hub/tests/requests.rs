//! Requests, replies, deadlines, cancellation, queries.

use super::*;

fn ask(world: &mut World, node: &Node, call: u64, service: &str) {
    ask_within(world, node, call, service, 1_000);
}

fn ask_within(world: &mut World, node: &Node, call: u64, service: &str, deadline_ms: u32) {
    let content = Content::Text;
    world.say(
        node,
        &Message::Request {
            call,
            deadline_ms,
            service,
            content,
            payload: b"hi",
        },
    );
}

fn call_of(received: &Received) -> u64 {
    let call = received
        .others
        .iter()
        .find(|other| other.starts_with("Call"))
        .expect("a call");
    call["Call { call: ".len()..]
        .split(',')
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

fn pair() -> (World, Node, Node) {
    let mut world = World::new();
    let (caller, server) = (world.node("caller", 1), world.node("server", 1));
    world.take(&caller);
    world.take(&server);
    (world, caller, server)
}

/// `echo` is served by both nodes; asks until the call is at the server.
fn call_at(world: &mut World, caller: &Node, server: &Node, number: u64) -> u64 {
    for number in [number, number + 1] {
        ask(world, caller, number, "echo");
    }
    world.take(caller);
    call_of(&world.take(server))
}

#[test]
fn a_reply_reaches_the_caller_once() {
    let (mut world, caller, server) = pair();
    let call = call_at(&mut world, &caller, &server, 5);
    for _ in 0..2 {
        world.say(
            &server,
            &Message::Reply {
                call,
                ok: true,
                content: Content::Json,
                payload: b"{}",
            },
        );
    }
    let answers = world.take(&caller).others;
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert!(answers[0].contains("status: Ok, content: Json"));
}

#[test]
fn nodes_of_a_service_take_turns() {
    let (mut world, caller, server) = pair();
    for number in 0..10 {
        ask(&mut world, &caller, number, "echo");
    }
    assert_eq!(
        (
            world.take(&caller).others.len(),
            world.take(&server).others.len()
        ),
        (5, 5)
    );
}

#[test]
fn no_such_service_is_said_at_once() {
    let (mut world, caller, _) = pair();
    ask(&mut world, &caller, 5, "nothing");
    assert!(world.take(&caller).others[0].contains("NoSuchService"));
}

#[test]
fn a_deadline_ends_the_call_on_both_sides() {
    let (mut world, caller, server) = pair();
    let call = call_at(&mut world, &caller, &server, 5);
    world.pass(1_000);
    assert_eq!(
        world
            .take(&caller)
            .others
            .iter()
            .filter(|other| other.contains("Deadline"))
            .count(),
        2
    );
    assert!(
        world
            .take(&server)
            .others
            .contains(&format!("Cancelled {{ call: {call} }}"))
    );
    world.say(
        &server,
        &Message::Reply {
            call,
            ok: true,
            content: Content::Bytes,
            payload: b"late",
        },
    );
    assert_eq!(
        world
            .take(&caller)
            .others
            .iter()
            .filter(|other| other.starts_with("Answer"))
            .count(),
        0
    );
}

#[test]
fn on_any_doubt_the_answer_is_unknown() {
    let (mut world, caller, server) = pair();
    call_at(&mut world, &caller, &server, 5);
    world.drop_link(&server);
    assert_eq!(
        world
            .take(&caller)
            .others
            .iter()
            .filter(|other| other.contains("status: Unknown"))
            .count(),
        1
    );
}

#[test]
fn a_caller_that_is_gone_or_cancels_is_not_waited_for() {
    let (mut world, caller, server) = pair();
    let call = call_at(&mut world, &caller, &server, 5);
    world.drop_link(&caller);
    assert!(
        world
            .take(&server)
            .others
            .contains(&format!("Cancelled {{ call: {call} }}"))
    );
    let caller = world.node("caller", 1);
    call_at(&mut world, &caller, &server, 5);
    world.say(&caller, &Message::Cancel { call: 5 });
    world.say(&caller, &Message::Cancel { call: 6 });
    assert_eq!(
        world
            .take(&caller)
            .others
            .iter()
            .filter(|other| other.contains("status: Cancelled"))
            .count(),
        2
    );
    assert!(world.hub.calls.next_deadline().is_none());
}

#[test]
fn queries_answer_in_json() {
    let (mut world, caller, server) = pair();
    world.login(&server, "al\"ice");
    world.login(&server, "bob");
    let mut json = |what, argument| {
        world.say(
            &caller,
            &Message::Query {
                call: 9,
                what,
                argument,
            },
        );
        let bytes = world.received.remove(&caller.conn).unwrap();
        let answer = decode(&bytes).find_map(|message| match message {
            Ok(Message::Answer { payload, .. }) => {
                Some(String::from_utf8(payload.to_vec()).unwrap())
            }
            _ => None,
        });
        answer.unwrap()
    };
    let status = json(1, "");
    assert!(
        status.contains(r#""players_online":2"#) && status.contains(r#""hub_epoch":1"#),
        "{status}"
    );
    assert!(json(2, "").contains(r#""name":"server""#));
    assert_eq!(json(3, "5 al").matches("phase").count(), 1);
    assert_eq!(json(3, "").matches(r#""phase":"live""#).count(), 2);
    assert_eq!(json(9, ""), "no such query");
}

/// A restarted hub and a caller that serves nothing; the node that serves `echo` is not back yet.
fn restarted() -> (World, Node) {
    let (world, _, _) = pair();
    let mut world = world.restart();
    let caller = world.hello_as("caller", 1, &[]);
    world.take(&caller);
    (world, caller)
}

/// Answers that a node was given, pings apart.
fn answers(world: &mut World, node: &Node) -> Vec<String> {
    let mut others = world.take(node).others;
    others.retain(|text| text.starts_with("Answer"));
    others
}

#[test]
fn a_request_after_a_hub_restart_waits_for_its_service() {
    let (mut world, caller) = restarted();
    ask(&mut world, &caller, 5, "echo");
    assert!(answers(&mut world, &caller).is_empty());
    world.pass_with(&[&caller], 300);
    let server = world.hello("server", 1);
    let received = world.take(&server);
    let text = received.others.iter().find(|text| text.starts_with("Call"));
    assert!(text.unwrap().contains("deadline_ms: 700"), "{text:?}");
    let call = call_of(&received);
    let (ok, content, payload) = (true, Content::Bytes, &b"there"[..]);
    world.say(
        &server,
        &Message::Reply {
            call,
            ok,
            content,
            payload,
        },
    );
    let given = answers(&mut world, &caller);
    assert!(given.len() == 1 && given[0].contains("call: 5"));
    assert!(given[0].contains("status: Ok"));
    assert!(world.hub.calls.is_empty());
}

#[test]
fn after_the_hold_no_request_waits_for_a_service() {
    let (mut world, caller) = restarted();
    ask_within(&mut world, &caller, 5, "echo", 60_000);
    world.pass_with(&[&caller], 2_900);
    assert!(answers(&mut world, &caller).is_empty());
    world.pass_with(&[&caller], 200);
    assert!(answers(&mut world, &caller)[0].contains("NoSuchService"));
    assert!(world.hub.calls.is_empty());
}

#[test]
fn a_waiting_request_ends_with_its_deadline_its_cancellation_and_its_link() {
    let (mut world, caller) = restarted();
    ask(&mut world, &caller, 5, "echo");
    world.pass_with(&[&caller], 1_100);
    assert!(answers(&mut world, &caller)[0].contains("Deadline"));
    ask(&mut world, &caller, 6, "echo");
    world.say(&caller, &Message::Cancel { call: 6 });
    assert!(answers(&mut world, &caller)[0].contains("Cancelled"));
    ask(&mut world, &caller, 7, "echo");
    world.drop_link(&caller);
    assert!(world.hub.calls.is_empty());
    let server = world.hello("server", 1);
    let received = world.take(&server).others;
    assert!(!received.iter().any(|text| text.starts_with("Call")));
}

#[test]
fn what_waits_for_services_is_bounded() {
    let (mut world, caller) = restarted();
    world.hub.config.link_bytes = 100;
    for call in 5..9 {
        ask(&mut world, &caller, call, "echo");
    }
    let refused = answers(&mut world, &caller);
    assert!(!refused.is_empty() && refused.len() < 4, "{refused:?}");
    assert!(refused.iter().all(|text| text.contains("NoSuchService")));
}

/// The kinds of messages in a node's frames, in the order they were taken.
fn order(world: &mut World, node: &Node) -> Vec<String> {
    let bytes = world.received.remove(&node.conn).unwrap_or_default();
    let kind = |text: String| text.split([' ', '(']).next().unwrap_or("").to_string();
    decode(&bytes)
        .map(|message| kind(format!("{:?}", message.unwrap())))
        .collect()
}

#[test]
fn answers_wait_behind_receipts_pongs_and_presence_whatever_came_first() {
    let (mut world, caller, server) = pair();
    let call = call_at(&mut world, &caller, &server, 5);
    world.say(&caller, &Message::Subscribe { topics: 1 });
    order(&mut world, &caller);
    world.hub.set_writable(caller.conn, false);
    let (ok, content, payload) = (true, Content::Bytes, &[7; 500_000][..]);
    world.say(
        &server,
        &Message::Reply {
            call,
            ok,
            content,
            payload,
        },
    );
    world.login(&server, "alice");
    world.send(&caller, 1, "nobody");
    world.say(&caller, &Message::Ping { nonce: 1, low: 0 });
    world.hub.set_writable(caller.conn, true);
    world.run();
    let order = order(&mut world, &caller);
    assert_eq!(order, ["Presence", "Receipt", "Pong", "Answer"]);
}

#[test]
fn who_asks_and_does_not_read_is_closed() {
    let (mut world, caller, _) = pair();
    world.hub.config.link_bytes = 10_000;
    world.hub.config.control_bytes = 10_000;
    world.hub.set_writable(caller.conn, false);
    for call in 0..200 {
        let (what, argument) = (1, "");
        world.say(
            &caller,
            &Message::Query {
                call,
                what,
                argument,
            },
        );
    }
    world.pass(1_000);
    assert_eq!(world.hub.counters().overflowed, 1);
}
