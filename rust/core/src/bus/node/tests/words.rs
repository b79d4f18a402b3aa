//! What a node wrote, in words that a test can compare.

use crate::bus::codec::decode;
use crate::bus::message::{
    Ack, Claim, Mark, Member, Message, Number, POLICY_SEQ, Policy, Send, Target,
};
use crate::bus::wire::{Item, List};

/// One word or two for each message of the frame.
pub fn words(frame: &[u8]) -> Vec<String> {
    decode(frame)
        .map(|message| word(&message.expect("a node writes what can be read")))
        .collect()
}

fn word(message: &Message<'_>) -> String {
    match message {
        Message::Hello(hello) => format!("hello {} {} low {}", hello.name, hello.epoch, hello.low),
        Message::Send(send) => word_of_send(send),
        Message::Seen { deliveries } => format!("seen {}", each(deliveries, numbered)),
        Message::Login { claims } => format!("login {}", each(claims, asked)),
        Message::Register { claims, last } => {
            let last = if *last { "last" } else { "" };
            format!("register {}{last}", each(claims, claimed))
        }
        Message::Logout {
            player,
            login,
            cursor,
        } => format!("logout {player}={login} {}", each(cursor, marked)),
        Message::Ack { acks } => format!("ack {}", each(acks, acked)),
        Message::Join {
            request,
            durable,
            members,
        } => format!("join #{request} {durable} {}", each(members, member)),
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

fn word_of_send(send: &Send<'_>) -> String {
    let again = if send.resend { "again " } else { "" };
    let to = match send.target {
        Target::Player(name) | Target::Group(name) => name.to_owned(),
        Target::Broadcast(scope) => format!("{scope:?}"),
    };
    let payload = String::from_utf8_lossy(send.payload);
    let seq = send.seq & !POLICY_SEQ;
    let mut options = match send.policy {
        Policy::MustDeliver => String::new(),
        Policy::Latest => format!(" latest {}", send.key),
        Policy::Droppable => " droppable".to_owned(),
    };
    for (word, at_ms) in [("until", send.deadline_ms), ("at", send.deliver_at_ms)] {
        if at_ms != 0 {
            options += &format!(" {word} {at_ms}");
        }
    }
    for (word, there) in [("quiet", send.quiet), ("trace", send.trace)] {
        if there {
            options += &format!(" {word}");
        }
    }
    format!("{again}send {seq} low {} {to} {payload}{options}", send.low)
}

fn numbered(delivery: Number) -> String {
    format!("{}:{}", delivery.binding, delivery.number)
}

fn each<'a, T: Item<'a>>(items: &List<'a, T>, show: fn(T) -> String) -> String {
    items.iter().map(show).collect::<Vec<_>>().join(" ")
}

fn asked(claim: Claim<'_>) -> String {
    format!("{}#{}", claim.player, claim.request)
}

fn claimed(claim: Claim<'_>) -> String {
    format!("{}={}#{}", claim.player, claim.login, claim.request)
}

fn marked(mark: Mark) -> String {
    format!("{}:{}", mark.node_key, mark.seq)
}

fn acked(ack: Ack) -> String {
    format!("{}:{}", ack.binding, ack.up_to)
}

fn member(member: Member<'_>) -> String {
    format!("{}/{}", member.group, member.player)
}
