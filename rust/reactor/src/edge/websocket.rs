//! WebSocket over memory: tungstenite reads from a slice and writes into the connection's ring.
//!
//! So sockets are read and written in one place for all transports, and the outbound bound counts
//! every byte. Binary messages are packets; text is refused.

use std::io::{self, Read, Write};

use tungstenite::error::Error;
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response, write_response};
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, FrameHeader};
use tungstenite::protocol::{Message, Role, WebSocketConfig, WebSocketContext};
use zmqgame_core::stream::packet::PacketError;
use zmqgame_core::stream::ring::RingBuffer;

use super::config::{OWN_ANSWERS_BYTES, REQUEST_HEAD_BYTES};
use super::reason::CloseReason;

/// What tungstenite reads at a time; it keeps this much for each connection.
const READ_BYTES: usize = 2_048;
/// The longest reason in a close frame (RFC 6455 section 5.5: 125 with the code).
const REASON_BYTES: usize = 123;

/// The ends that tungstenite sees.
struct Pipe<'a> {
    input: &'a [u8],
    output: &'a mut RingBuffer,
    overflow: bool,
}

impl<'a> Pipe<'a> {
    fn new(input: &'a [u8], output: &'a mut RingBuffer) -> Self {
        Self {
            input,
            output,
            overflow: false,
        }
    }
}

impl Read for Pipe<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.input.read(buffer)
    }
}

impl Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.output.push(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(_) => {
                self.overflow = true;
                Err(io::ErrorKind::WouldBlock.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Looks for a request head. Gives the answer to send and the bytes of the head once it is whole.
/// `seen` bytes at the front hold no whole head.
pub(super) fn read_request(
    bytes: &[u8],
    seen: usize,
) -> Result<Option<(Vec<u8>, usize)>, CloseReason> {
    let bad = |error: Error| CloseReason::Request(error.to_string());
    let fresh = &bytes[seen.saturating_sub(3)..];
    if !fresh.windows(4).any(|four| four == b"\r\n\r\n") {
        if bytes.len() > REQUEST_HEAD_BYTES {
            let what = format!("head of more than {REQUEST_HEAD_BYTES} bytes");
            return Err(CloseReason::Request(what));
        }
        return Ok(None);
    }
    let Some((size, request)) = Request::try_parse(bytes).map_err(bad)? else {
        return Ok(None);
    };
    let response = create_response(&request).map_err(bad)?;
    let mut answer = Vec::with_capacity(160);
    write_response(&mut answer, &response).map_err(bad)?;
    Ok(Some((answer, size)))
}

/// What a refused request is answered.
pub(super) fn refusal(reason: &CloseReason) -> String {
    let body = format!("{reason}\n");
    let length = body.len();
    format!(
        "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

/// One WebSocket after its handshake.
pub(super) struct WebSocket {
    context: WebSocketContext,
    limit: usize,
}

impl WebSocket {
    /// The server's side; messages and frames of at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(OWN_ANSWERS_BYTES)
            .max_message_size(Some(limit))
            .max_frame_size(Some(limit));
        Self {
            context: WebSocketContext::new(Role::Server, Some(config)),
            limit,
        }
    }

    /// Takes bytes in, hands each binary message to `sink`; answers to pings go to `output`.
    /// Gives whether anything whole came, a ping included.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        output: &mut RingBuffer,
        mut sink: impl FnMut(&[u8]) -> Result<(), PacketError>,
    ) -> Result<bool, CloseReason> {
        let limit_bytes = output.limit();
        let mut pipe = Pipe::new(bytes, output);
        let mut alive = false;
        loop {
            match self.context.read(&mut pipe) {
                Ok(Message::Binary(message)) => {
                    sink(&message).map_err(CloseReason::Packet)?;
                }
                Ok(Message::Text(_)) => {
                    let what = "text message: packets are binary".to_owned();
                    return Err(CloseReason::WebSocket(what));
                }
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(self.reason_of(error)),
            }
            alive = true;
        }
        // Pongs that nobody reads: the same as packets that nobody reads.
        if pipe.overflow {
            Err(CloseReason::Full { limit_bytes })
        } else {
            Ok(alive)
        }
    }

    /// Appends a packet as one binary message.
    pub(super) fn write(&self, packet: &[u8], output: &mut RingBuffer) -> Result<(), CloseReason> {
        if !self.context.can_write() {
            return Ok(());
        }
        let header = FrameHeader {
            opcode: OpCode::Data(Data::Binary),
            ..FrameHeader::default()
        };
        let limit_bytes = output.limit();
        let mut pipe = Pipe::new(&[], output);
        let written = header.format(packet.len() as u64, &mut pipe).is_ok();
        if !written || pipe.write(packet).is_err() {
            return Err(CloseReason::Full { limit_bytes });
        }
        Ok(())
    }

    /// Appends the close frame, if none went out yet.
    pub(super) fn close(&mut self, reason: &CloseReason, output: &mut RingBuffer) {
        let mut text = reason.to_string();
        let end = (0..=REASON_BYTES.min(text.len()))
            .rev()
            .find(|&at| text.is_char_boundary(at));
        text.truncate(end.unwrap_or(0));
        let frame = CloseFrame {
            code: reason.websocket_code().into(),
            reason: text.into(),
        };
        // It fails when the client has closed or when there is no room; the end is the same.
        let _ = self.context.close(&mut Pipe::new(&[], output), Some(frame));
    }

    fn reason_of(&self, error: Error) -> CloseReason {
        match error {
            Error::ConnectionClosed | Error::AlreadyClosed => CloseReason::Peer,
            Error::Capacity(tungstenite::error::CapacityError::MessageTooLong { size, .. }) => {
                let (bytes, limit_bytes) = (size as u64, self.limit as u64);
                CloseReason::Packet(PacketError::TooLong { bytes, limit_bytes })
            }
            error => CloseReason::WebSocket(error.to_string()),
        }
    }
}
