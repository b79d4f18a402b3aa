//! Nodes that host players, answer requests, and handle at once what comes.

use std::io;
use std::time::Duration;

use zmqgame_core::bus::message::Content;
use zmqgame_core::bus::node::Node;
use zmqgame_core::bus::node::cursor::Cursor;
use zmqgame_core::bus::node::event::NodeEvent;

use crate::driver::Driver;
use crate::options::Options;
use crate::say;

/// Logins under way of one node: what a game server does when it starts in a rush.
const LOGINS: usize = 1_000;

/// What a game server does with what comes.
pub fn obey(node: &mut Node, event: NodeEvent) {
    match event {
        NodeEvent::Message { player, id, .. } => node.handled(&player, id),
        NodeEvent::Messages { to, delivery } => node.handled_by(&to, delivery.id),
        NodeEvent::Call { call, payload, .. } => {
            // Nobody may wait for it any more.
            let _ = node.reply(call, true, Content::Bytes, &payload);
        }
        _ => {}
    }
}

/// Logs players in, `LOGINS` at a time, each at the node that its number says.
///
/// # Errors
/// The hub refuses one.
pub fn attach(driver: &mut Driver, names: &[String]) -> io::Result<()> {
    let (nodes, mut bound, mut next) = (driver.clients.len(), 0, 0);
    while bound < names.len() {
        while next < names.len() && next - bound < LOGINS * nodes {
            let node = &mut driver.clients[next % nodes].node;
            node.attach(&names[next], 0, Cursor::default())
                .map_err(|error| io::Error::other(format!("{error:?}")))?;
            next += 1;
        }
        for at in 0..nodes {
            driver.flush(at)?;
        }
        driver.turn(&mut |_, node, event| match event {
            NodeEvent::Bound { .. } => bound += 1,
            other => obey(node, other),
        })?;
    }
    Ok(())
}

fn join(driver: &mut Driver, group: &str, names: &[String]) -> io::Result<()> {
    let (nodes, mut joined, mut next) = (driver.clients.len(), 0, 0);
    while joined < names.len() {
        while next < names.len() && next - joined < LOGINS {
            let node = &mut driver.clients[next % nodes].node;
            node.member(true, false, group, &names[next])
                .map_err(|error| io::Error::other(format!("{error:?}")))?;
            next += 1;
        }
        for at in 0..nodes {
            driver.flush(at)?;
        }
        driver.turn(&mut |_, node, event| match event {
            NodeEvent::Joined { .. } => joined += 1,
            other => obey(node, other),
        })?;
    }
    Ok(())
}

/// The names of the players that the options ask for.
pub fn names(options: &Options) -> Vec<String> {
    let (prefix, first) = (options.text("prefix", "p"), options.number("first", 0));
    (first..first + options.number("players", 0))
        .map(|n| format!("{prefix}{n}"))
        .collect()
}

/// Hosts until stdin ends; a line logs players in (`players=N`), which is answered by `ready`.
///
/// # Errors
/// The hub is lost.
pub fn host(driver: &mut Driver, options: &Options) -> io::Result<()> {
    let roles = match options.text("service", "") {
        "" => Vec::new(),
        service => vec![service.to_owned()],
    };
    for n in 0..options.number("nodes", 1) {
        let name = format!("{}-{n}", options.text("name", "far"));
        driver.add(&name, roles.clone(), &options.address)?;
    }
    let listed = names(options);
    attach(driver, &listed)?;
    if !options.text("group", "").is_empty() {
        join(driver, options.text("group", ""), &listed)?;
    }
    say("ready");
    while let Some(line) = driver.line(&mut |_, node, event| obey(node, event))? {
        attach(driver, &names(&options.with(&line)))?;
        say("ready");
    }
    Ok(())
}

/// Hosts players and reads 1,000 bytes a second.
///
/// # Errors
/// The hub is lost.
pub fn slow(driver: &mut Driver, options: &Options) -> io::Result<()> {
    driver.add(options.text("name", "slow"), Vec::new(), &options.address)?;
    attach(driver, &names(options))?;
    say("ready");
    let mut buffer = [0; 1_000];
    loop {
        let now_ms = driver.now_ms();
        let client = &mut driver.clients[0];
        client.read(now_ms, &mut buffer)?;
        while let Some(event) = client.event()? {
            obey(&mut client.node, event);
        }
        client.node.handle_timeout(now_ms, 0);
        driver.flush(0)?;
        std::thread::sleep(Duration::from_secs(1));
        driver.refresh();
    }
}
