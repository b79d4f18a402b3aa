//! Requests and calls: at most once, with a deadline.

use super::*;

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
