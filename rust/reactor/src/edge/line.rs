//! The bytes of one connection: its socket, and TLS where there is one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::{RecvFlags, SendFlags};
use zmqgame_core::stream::ring::RingBuffer;

use super::counters::Counters;
use super::reason::CloseReason;
use super::tls::Tls;
use crate::stream::Stream;

/// Room for one read.
pub(super) const READ_BYTES: usize = 16_384;

/// How one read ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum Got {
    /// So many bytes; whether there may be more.
    Bytes { count: usize, more: bool },
    /// Nothing now.
    Empty,
}

/// A socket, and its TLS.
#[derive(Debug)]
pub(super) struct Line {
    stream: Stream,
    tls: Option<Box<Tls>>,
    /// Plaintext that came with the end of the handshake: read first.
    early: Vec<u8>,
    /// The other side has said, within TLS, that it sends no more.
    goodbye: bool,
    shut: bool,
}

impl Line {
    pub(super) fn new(stream: Stream, tls: Option<Box<Tls>>) -> Self {
        Self {
            stream,
            tls,
            early: Vec::new(),
            goodbye: false,
            shut: false,
        }
    }

    /// From now on there is TLS.
    pub(super) fn start_tls(&mut self, tls: Box<Tls>) {
        self.tls = Some(tls);
    }

    /// Another socket in place of the one that did not connect.
    pub(super) fn replace(&mut self, stream: Stream) {
        self.stream = stream;
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    pub(super) fn is_tcp(&self) -> bool {
        matches!(self.stream, Stream::Tcp(_))
    }

    pub(super) fn tls(&self) -> Option<&Tls> {
        self.tls.as_deref()
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// What it holds beside the connection's own buffers.
    pub(super) fn memory(&self) -> usize {
        let tls = self.tls.as_ref().map_or(0, |tls| tls.memory());
        tls + self.early.capacity()
    }

    /// Whether it holds storage that could be given back.
    pub(super) fn has_storage(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_storage())
    }

    /// Gives storage back that is not needed.
    pub(super) fn shrink(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.shrink();
        }
    }

    /// One read; what comes goes behind `into`, by way of `cipher` with TLS.
    pub(super) fn read(
        &mut self,
        into: &mut Vec<u8>,
        cipher: &mut Vec<u8>,
        counters: &Counters,
    ) -> Result<Got, CloseReason> {
        let Some(tls) = &mut self.tls else {
            return read_some(&self.stream, into, counters);
        };
        if !self.early.is_empty() {
            let early = std::mem::take(&mut self.early);
            into.extend_from_slice(&early);
            let (count, more) = (early.len(), true);
            return Ok(Got::Bytes { count, more });
        }
        if self.goodbye {
            return Err(CloseReason::Peer);
        }
        cipher.clear();
        match read_some(&self.stream, cipher, counters) {
            Ok(Got::Bytes { count, more }) if count > 0 => {
                let start = into.len();
                self.goodbye = tls.feed(cipher, into)?;
                let count = into.len() - start;
                let more = more || self.goodbye;
                Ok(Got::Bytes { count, more })
            }
            // An end without goodbye: somebody may have cut it off.
            Err(CloseReason::Peer) => Err(CloseReason::Broken(io::ErrorKind::UnexpectedEof)),
            other => other,
        }
    }

    /// Plaintext that came too early: the next read gives it.
    pub(super) fn put_back(&mut self, plain: &[u8]) {
        self.early.extend_from_slice(plain);
    }

    /// One read straight into `ring`, of at most `most` bytes. Only without TLS.
    pub(super) fn read_into_ring(
        &mut self,
        ring: &mut RingBuffer,
        most: usize,
        counters: &Counters,
    ) -> Result<Got, CloseReason> {
        let [first, second] = ring.spare();
        let split = most.min(first.len());
        let rest = (most - split).min(second.len());
        let slices = &mut [
            io::IoSliceMut::new(&mut first[..split]),
            io::IoSliceMut::new(&mut second[..rest]),
        ];
        let got = got_of(
            rustix::io::readv(self.stream.as_fd(), slices),
            most,
            counters,
        )?;
        if let Got::Bytes { count, .. } = got {
            ring.commit(count);
        }
        Ok(got)
    }

    /// Whether something waits to be written.
    pub(super) fn wants_write(&self, outbound: &RingBuffer) -> bool {
        !outbound.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Writes what the socket takes. Gives whether that was all.
    pub(super) fn flush(
        &mut self,
        outbound: &mut RingBuffer,
        counters: &Counters,
    ) -> Result<bool, CloseReason> {
        if self.tls.is_some() {
            return self.flush_tls(outbound, counters);
        }
        while !outbound.is_empty() {
            let [first, second] = outbound.readable();
            let written = if second.is_empty() {
                rustix::net::send(self.stream.as_fd(), first, SendFlags::NOSIGNAL)
            } else {
                let slices = [io::IoSlice::new(first), io::IoSlice::new(second)];
                rustix::io::writev(self.stream.as_fd(), &slices)
            };
            match written {
                Ok(count) => {
                    outbound.consume(count);
                    Counters::add(&counters.bytes_out, count as u64);
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(false),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(CloseReason::Broken(error.kind())),
            }
        }
        Ok(true)
    }

    fn flush_tls(
        &mut self,
        outbound: &mut RingBuffer,
        counters: &Counters,
    ) -> Result<bool, CloseReason> {
        let Some(tls) = &mut self.tls else {
            return Ok(true);
        };
        let broken = |error: io::Error| CloseReason::Broken(error.kind());
        loop {
            while tls.wants_write() {
                match tls.write_to(&mut self.stream) {
                    Ok(count) => Counters::add(&counters.bytes_out, count as u64),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(broken(error)),
                }
            }
            if outbound.is_empty() {
                return Ok(true);
            }
            if tls.is_handshaking() {
                return Ok(false);
            }
            tls.encrypt(outbound).map_err(broken)?;
        }
    }

    /// Ends this side's half, once; what was written before arrives first.
    pub(super) fn shut(&mut self, counters: &Counters) -> Result<bool, CloseReason> {
        if self.shut {
            return Ok(true);
        }
        if let Some(tls) = &mut self.tls {
            tls.say_goodbye();
            if !self.flush_tls(&mut RingBuffer::new(0), counters)? {
                return Ok(false);
            }
        }
        self.shut = true;
        // The client reads to the end and closes; we wait for that so that no reset overtakes it.
        let _ = rustix::net::shutdown(self.stream.as_fd(), rustix::net::Shutdown::Write);
        Ok(true)
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// One read into the free storage of `bytes`, of which there is at least [`READ_BYTES`].
pub(super) fn read_some(
    stream: &Stream,
    bytes: &mut Vec<u8>,
    counters: &Counters,
) -> Result<Got, CloseReason> {
    bytes.reserve(READ_BYTES);
    let room = bytes.capacity() - bytes.len();
    let spare = rustix::buffer::spare_capacity(bytes);
    let got = rustix::net::recv(stream.as_fd(), spare, RecvFlags::empty());
    got_of(got.map(|(_, count)| count), room, counters)
}

fn got_of(
    read: rustix::io::Result<usize>,
    room: usize,
    counters: &Counters,
) -> Result<Got, CloseReason> {
    match read {
        Ok(0) if room > 0 => Err(CloseReason::Peer),
        Ok(count) => {
            Counters::add(&counters.bytes_in, count as u64);
            Ok(Got::Bytes {
                count,
                more: count == room,
            })
        }
        Err(rustix::io::Errno::AGAIN) => Ok(Got::Empty),
        Err(rustix::io::Errno::INTR) => Ok(Got::Bytes {
            count: 0,
            more: true,
        }),
        Err(error) => Err(CloseReason::Broken(error.kind())),
    }
}
