//! Many nodes on one thread, and the line on stdin that starts each round.

use std::io::{self, BufRead};
use std::os::fd::AsFd;
use std::sync::Arc;

use zmqgame_core::bus::node::Node;
use zmqgame_core::bus::node::event::NodeEvent;
use zmqgame_core::zmtp::Config;
use zmqgame_reactor::reactor::{Interest, Reactor, Ready, Token};

use crate::client::Client;

/// The token of stdin; those of clients are their places.
const STDIN: Token = Token(u64::MAX);
/// How often clocks of the nodes are looked at: a tenth of a heartbeat.
const TICK_MS: u64 = 100;
/// One read of one client.
const READ_BYTES: usize = 256 << 10;

/// The nodes of this process.
pub struct Driver {
    /// By place.
    pub clients: Vec<Client>,
    reactor: Reactor,
    buffer: Vec<u8>,
    ready: Vec<Ready>,
    ticked_ms: u64,
    zmtp: Arc<Config>,
}

impl Driver {
    /// None yet.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn new(zmtp: Config) -> io::Result<Self> {
        let reactor = Reactor::new()?;
        reactor.register(io::stdin().as_fd(), STDIN, Interest::READ)?;
        Ok(Self {
            clients: Vec::new(),
            reactor,
            buffer: vec![0; READ_BYTES],
            ready: Vec::new(),
            ticked_ms: 0,
            zmtp: Arc::new(zmtp),
        })
    }

    /// Connects one more node and waits for its welcome.
    ///
    /// # Errors
    /// The hub does not want it.
    pub fn add(&mut self, name: &str, roles: Vec<String>, address: &str) -> io::Result<usize> {
        let at = self.clients.len();
        let token = Token(at as u64);
        let client = Client::connect(name, roles, address, &self.zmtp, token, &mut self.reactor)?;
        self.clients.push(client);
        while !self.clients[at].is_up() {
            self.turn(&mut |_, _, _| {})?;
        }
        Ok(at)
    }

    /// The loop's clock.
    pub const fn now_ms(&self) -> u64 {
        self.ticked_ms
    }

    /// Reads the clock, after a sleep.
    pub fn refresh(&mut self) {
        self.ticked_ms = self.reactor.refresh_now();
    }

    /// Writes what a client has, after it was given something to send.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn flush(&mut self, at: usize) -> io::Result<()> {
        self.clients[at].flush(&self.reactor)
    }

    /// Waits for something, hands every event to `on`, writes what follows from it. True: a line is on stdin.
    ///
    /// # Errors
    /// A connection is lost.
    pub fn turn(&mut self, on: &mut impl FnMut(usize, &mut Node, NodeEvent)) -> io::Result<bool> {
        self.turn_within(TICK_MS, on)
    }

    /// The same, with a wait of at most so long.
    ///
    /// # Errors
    /// A connection is lost.
    pub fn turn_within(
        &mut self,
        at_most_ms: u64,
        on: &mut impl FnMut(usize, &mut Node, NodeEvent),
    ) -> io::Result<bool> {
        let mut ready = std::mem::take(&mut self.ready);
        self.reactor.wait(&mut ready, Some(at_most_ms))?;
        let now_ms = self.reactor.now_ms();
        let mut line = false;
        for event in &ready {
            if event.token == STDIN {
                line = true;
                continue;
            }
            let Token(at) = event.token;
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            if event.readable {
                self.clients[at].read(now_ms, &mut self.buffer)?;
            }
            self.events(at, on)?;
        }
        self.ready = ready;
        if now_ms >= self.ticked_ms + TICK_MS {
            self.ticked_ms = now_ms;
            for at in 0..self.clients.len() {
                self.clients[at].node.handle_timeout(now_ms, 0);
                self.events(at, on)?;
            }
        }
        Ok(line)
    }

    fn events(
        &mut self,
        at: usize,
        on: &mut impl FnMut(usize, &mut Node, NodeEvent),
    ) -> io::Result<()> {
        let client = &mut self.clients[at];
        while let Some(event) = client.event()? {
            on(at, &mut client.node, event);
        }
        client.flush(&self.reactor)
    }

    /// Turns until a line comes on stdin, and gives it; `None` at its end.
    ///
    /// # Errors
    /// A connection is lost.
    pub fn line(
        &mut self,
        on: &mut impl FnMut(usize, &mut Node, NodeEvent),
    ) -> io::Result<Option<String>> {
        while !self.turn(on)? {}
        let mut line = String::new();
        // The other side writes whole lines, one a round.
        let count = io::stdin().lock().read_line(&mut line)?;
        Ok((count > 0).then(|| line.trim().to_owned()))
    }
}
