//! What is measured: each line on stdin is a round, each round's figures are a line on stdout.

use std::io;
use std::time::{Duration, Instant};

use zmqgame_core::bus::message::{AnswerStatus, Content, Outcome};
use zmqgame_core::bus::node::event::NodeEvent;
use zmqgame_core::bus::node::sender::Recipient;

use crate::driver::Driver;
use crate::host::{attach, names, obey};
use crate::options::Options;
use crate::say;

/// Messages a sender adds before it looks for receipts again.
const BURST: usize = 512;

fn percentile(sorted: &[u64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "places of a list that fits in memory"
    )]
    let at = (last as f64 * share).round() as usize;
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of one round")]
    let ns = sorted.get(at).copied().unwrap_or(0) as f64;
    ns / 1e3
}

/// Round trips to a service, one after the other: `count=N`, or `seconds=S` with `pause_us=P` between them.
///
/// # Errors
/// The hub is lost.
pub fn rtt(driver: &mut Driver, options: &Options) -> io::Result<()> {
    let at = driver.add(options.text("name", "near"), Vec::new(), &options.address)?;
    say("ready");
    while let Some(line) = driver.line(&mut |_, node, event| obey(node, event))? {
        let round = options.with(&line);
        let payload = vec![b'x'; round.number("bytes", 64)];
        let until = Instant::now() + Duration::from_secs(round.number("seconds", 3_600) as u64);
        let pause = Duration::from_micros(round.number("pause_us", 0) as u64);
        let (mut times, mut failed) = (Vec::new(), 0);
        while times.len() < round.number("count", usize::MAX) && Instant::now() < until {
            let begun = Instant::now();
            let (service, now_ms) = (round.text("service", "echo"), driver.now_ms());
            let node = &mut driver.clients[at].node;
            let sent = node.request(now_ms, service, Content::Bytes, &payload, 0);
            sent.map_err(|error| io::Error::other(format!("{error:?}")))?;
            driver.flush(at)?;
            let mut answered = false;
            while !answered {
                driver.turn(&mut |_, node, event| match event {
                    NodeEvent::Answer { status, .. } => {
                        answered = true;
                        failed += usize::from(status != AnswerStatus::Ok);
                    }
                    other => obey(node, other),
                })?;
            }
            times.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
        }
        times.sort_unstable();
        say(&format!(
            "{{\"count\": {}, \"failed\": {failed}, \"p50_us\": {:.2}, \"p99_us\": {:.2}}}",
            times.len(),
            percentile(&times, 0.5),
            percentile(&times, 0.99)
        ));
    }
    Ok(())
}

/// What became of the messages of a round.
#[derive(Default)]
struct Outcomes {
    delivered: usize,
    stored: usize,
    other: usize,
    recipients: usize,
}

impl Outcomes {
    fn count(&mut self, event: &NodeEvent) -> bool {
        match event {
            NodeEvent::Receipt { outcome, .. } => match outcome {
                Outcome::Delivered => self.delivered += 1,
                Outcome::Stored => self.stored += 1,
                _ => self.other += 1,
            },
            NodeEvent::Report { report, .. } => {
                self.delivered += 1;
                self.recipients += report.counts[0] as usize;
            }
            _ => return false,
        }
        true
    }

    fn all(&self) -> usize {
        self.delivered + self.stored + self.other
    }
}

fn rate(count: usize, begun: Instant) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "messages of one round")]
    let count = count as f64;
    count / begun.elapsed().as_secs_f64()
}

/// `count=N` messages (or `seconds=S`) from each of `nodes` nodes to `players` in turn, or to a `group`, with
/// `window` of each node under way; `players_here=1`: the nodes host the players themselves.
///
/// # Errors
/// The hub is lost.
pub fn send(driver: &mut Driver, options: &Options) -> io::Result<()> {
    let nodes = options.number("nodes", 1);
    for n in 0..nodes {
        let name = format!("{}-{n}", options.text("name", "near"));
        driver.add(&name, Vec::new(), &options.address)?;
    }
    let listed = names(options);
    if options.number("players_here", 0) > 0 {
        attach(driver, &listed)?;
    }
    if options.number("known", 0) > 0 {
        know(driver, &listed)?;
    }
    say("ready");
    while let Some(line) = driver.line(&mut |_, node, event| obey(node, event))? {
        let round = options.with(&line);
        let recipients = match round.text("group", "") {
            "" => listed
                .iter()
                .map(|name| Recipient::Player(name.as_str().into()))
                .collect(),
            group => vec![Recipient::Group(group.into())],
        };
        send_round(driver, &round, &recipients)?;
    }
    Ok(())
}

/// The store learns of players who are offline afterwards.
fn know(driver: &mut Driver, listed: &[String]) -> io::Result<()> {
    attach(driver, listed)?;
    let (nodes, mut gone) = (driver.clients.len(), 0);
    for (n, name) in listed.iter().enumerate() {
        driver.clients[n % nodes].node.leave_player(name);
    }
    for at in 0..nodes {
        driver.flush(at)?;
    }
    while gone < listed.len() {
        driver.turn(&mut |_, node, event| match event {
            NodeEvent::LoggedOut { .. } => gone += 1,
            other => obey(node, other),
        })?;
    }
    Ok(())
}

fn send_round(driver: &mut Driver, round: &Options, recipients: &[Recipient]) -> io::Result<()> {
    let payload = vec![b'x'; round.number("bytes", 64)];
    let (window, nodes) = (round.number("window", 50_000), driver.clients.len());
    let per_second = round.number("per_second", 0);
    let seconds = round.number("seconds", 3_600) as u64;
    let count = round.number("count", usize::MAX / 2);
    let mut outcomes = Outcomes::default();
    let begun = Instant::now();
    let until = begun + Duration::from_secs(seconds);
    // Each node goes through the recipients from a place of its own.
    let mut next: Vec<usize> = (0..nodes).map(|at| at * recipients.len() / nodes).collect();
    let mut open = vec![0_usize; nodes];
    let (mut sent, mut over) = (0, false);
    while !over || outcomes.all() < sent {
        over = over || sent >= count || Instant::now() >= until;
        let mut more = false;
        for at in 0..nodes {
            let allowed = match per_second {
                0 => count,
                rate => (begun.elapsed().as_secs_f64() * rate as f64) as usize,
            };
            let mut burst = 0;
            while !over && burst < BURST && sent < count.min(allowed) && open[at] < window {
                let recipient = &recipients[next[at] % recipients.len()];
                let node = &mut driver.clients[at].node;
                if !node.has_room(&payload) {
                    break;
                }
                node.send(recipient.clone(), Content::Bytes, &payload, None)
                    .map_err(|error| io::Error::other(format!("{error:?}")))?;
                next[at] += 1;
                open[at] += 1;
                burst += 1;
                sent += 1;
            }
            if burst > 0 {
                driver.flush(at)?;
            }
            more |= burst == BURST;
        }
        // A sender with room goes on; one that sends at a rate looks at the clock again soon.
        let wait_ms = match (more, per_second) {
            (true, _) => 0,
            (false, 0) => 100,
            (false, _) => 1,
        };
        driver.turn_within(wait_ms, &mut |at, node, event| {
            if outcomes.count(&event) {
                open[at] -= 1;
            } else {
                obey(node, event);
            }
        })?;
    }
    say(&format!(
        "{{\"sent\": {sent}, \"delivered\": {}, \"stored\": {}, \"other\": {}, \"per_s\": {:.0}, \
         \"recipients_per_s\": {:.0}}}",
        outcomes.delivered,
        outcomes.stored,
        outcomes.other,
        rate(sent, begun),
        rate(outcomes.recipients, begun)
    ));
    Ok(())
}
