//! One ZMTP connection: a socket, a peer, and how much of its output waits.

use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;

use zmqgame_core::bus::life::Life;
use zmqgame_core::zmtp::{Config, Entropy, Peer};

use super::limits::{DISCARD_BYTES, DISCARD_READS, OUT_HIGH_BYTES, OUT_LOW_BYTES, SLICES_A_WRITE};
use crate::reactor::{Interest, Reactor, Token};
use crate::stream::Stream;

/// A connection of the server.
pub struct Link {
    stream: Stream,
    /// The protocol on it.
    pub peer: Peer,
    /// Where it comes from, for logs.
    pub address: String,
    token: Token,
    interest: Interest,
    /// The loop's clock at which the timer is set, if it is.
    timer_ms: Option<u64>,
    /// The router was told of it.
    pub known: bool,
    /// The router was told to hold back.
    pub held_back: bool,
    /// In the list of links with something to write.
    pub dirty: bool,
    /// What it held of an unfinished frame when that was counted last.
    pub partial_bytes: usize,
    /// What was read since its last sign of life.
    pub life: Life,
}

/// What one read gave.
pub enum ReadOutcome {
    /// So many bytes, and perhaps more wait.
    Bytes(usize),
    /// Nothing waits.
    Nothing,
    /// The other side has closed, or the connection is broken.
    Ended,
}

impl Link {
    /// Puts a fresh connection on the loop and sets the timer of its handshake.
    ///
    /// # Errors
    /// The kernel does not watch any more descriptors.
    pub fn new(
        stream: Stream,
        address: String,
        token: Token,
        config: Arc<Config>,
        entropy: Entropy,
        reactor: &mut Reactor,
    ) -> io::Result<Self> {
        reactor.register(&stream, token, Interest::READ)?;
        let mut link = Self {
            stream,
            peer: Peer::new(config, reactor.now_ms(), entropy),
            address,
            token,
            interest: Interest::READ,
            timer_ms: None,
            known: false,
            held_back: false,
            dirty: false,
            partial_bytes: 0,
            life: Life::default(),
        };
        link.update_timer(reactor);
        Ok(link)
    }

    /// Reads once.
    pub fn read(&mut self, buffer: &mut [u8]) -> ReadOutcome {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return ReadOutcome::Ended,
                Ok(count) => return ReadOutcome::Bytes(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return ReadOutcome::Nothing;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return ReadOutcome::Ended,
            }
        }
    }

    /// Writes as much as the socket takes; how many bytes, or that the connection is broken.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn flush(&mut self, reactor: &Reactor) -> io::Result<usize> {
        let mut written = 0;
        while !self.peer.out().is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_A_WRITE];
            let filled = self.peer.out().slices(&mut slices);
            match self.stream.write_vectored(&slices[..filled]) {
                Ok(count) => {
                    self.peer.out().consume(count);
                    written += count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.want(reactor, Interest::BOTH)?;
                    return Ok(written);
                }
                Err(error) => return Err(error),
            }
        }
        self.want(reactor, Interest::READ)?;
        Ok(written)
    }

    fn want(&mut self, reactor: &Reactor, interest: Interest) -> io::Result<()> {
        if self.interest != interest {
            reactor.modify(&self.stream, self.token, interest)?;
            self.interest = interest;
        }
        Ok(())
    }

    /// Whether the router has to be told something else than before: hold back, or go on.
    pub fn changed_room(&mut self) -> Option<bool> {
        let waiting = self.peer.out_bytes();
        if !self.held_back && waiting > OUT_HIGH_BYTES {
            self.held_back = true;
            Some(false)
        } else if self.held_back && waiting < OUT_LOW_BYTES {
            self.held_back = false;
            Some(true)
        } else {
            None
        }
    }

    /// Sets, moves or takes away its timer. A deadline that moves back is not followed at each
    /// byte: the timer fires at the old time and is set again.
    pub fn update_timer(&mut self, reactor: &mut Reactor) {
        match (self.peer.poll_timeout(), self.timer_ms) {
            (None, None) => {}
            (None, Some(_)) => {
                reactor.cancel_timer(self.token);
                self.timer_ms = None;
            }
            (Some(at_ms), Some(set_ms)) if at_ms >= set_ms => {}
            (Some(at_ms), _) => {
                reactor.set_timer(self.token, at_ms);
                self.timer_ms = Some(at_ms);
            }
        }
    }

    /// Its timer has fired.
    pub fn timer_fired(&mut self) {
        self.timer_ms = None;
    }

    /// Takes it off the loop and closes it; what the peer had to say is tried once.
    pub fn close(mut self, reactor: &mut Reactor) {
        // Last words: the connection is given up, so nobody asks whether they arrived.
        let _ = self.flush(reactor);
        reactor.cancel_timer(self.token);
        // Fails only if it was never registered.
        let _ = reactor.deregister(&self.stream);
        self.discard_input();
        self.stream.shutdown();
    }

    /// Closing with input unread resets the connection, and the last words would be lost with it.
    fn discard_input(&mut self) {
        let mut scratch = [0; DISCARD_BYTES];
        for _ in 0..DISCARD_READS {
            if !matches!(self.read(&mut scratch), ReadOutcome::Bytes(_)) {
                return;
            }
        }
    }
}
