//! WebSocket over memory: tungstenite reads from a slice and writes into the connection's ring.
//!
//! So sockets are read and written in one place for all transports, and the outbound bound counts
//! every byte. Binary messages are packets; text is refused. Public for the fuzz targets.

use std::io::{self, Read, Write};

use tungstenite::error::Error;
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response, write_response};
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, FrameHeader};
use tungstenite::protocol::{Message, Role, WebSocketConfig, WebSocketContext};
use zmqgame_core::stream::packet::PacketError;
use zmqgame_core::stream::ring::{RingBuffer, RingFull};

use super::config::{OWN_ANSWERS_BYTES, REQUEST_HEAD_BYTES};
use super::held::{Frames, READ_AHEAD_BYTES};
use super::reason::{CloseReason, cut};
use super::websocket_client::Masks;

/// What tungstenite keeps for an answer of its own: the longest frame that is about the connection.
const ANSWER_BYTES: usize = 131;
/// The longest header of a frame, with a mask.
const FRAME_HEAD_BYTES: usize = 14;
/// Bytes that are masked on their way into the ring.
const MASKED_AT_ONCE: usize = 1_024;

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

/// Where an HTTP head ends, of which `seen` bytes hold no end; or why it can't have one.
pub(super) fn head_end(bytes: &[u8], seen: usize) -> Result<Option<usize>, String> {
    // The parser skips empty lines in front, in which an end would be seen before there is anything.
    if let Some(b'\r' | b'\n') = bytes.first() {
        return Err("an empty line in front of the head".to_owned());
    }
    let from = seen.saturating_sub(3);
    let end = bytes[from..]
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .map(|at| from + at + 4);
    // The same whether it comes at once or in pieces.
    if end.unwrap_or(bytes.len()) > REQUEST_HEAD_BYTES {
        return Err(format!("head of more than {REQUEST_HEAD_BYTES} bytes"));
    }
    Ok(end)
}

/// Looks for a request head. Gives the answer to send and the bytes of the head once it is whole.
/// `seen` bytes at the front hold no whole head.
pub fn read_request(bytes: &[u8], seen: usize) -> Result<Option<(Vec<u8>, usize)>, CloseReason> {
    let bad = |error: Error| CloseReason::Request(error.to_string());
    if head_end(bytes, seen)
        .map_err(CloseReason::Request)?
        .is_none()
    {
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
pub fn refusal(reason: &CloseReason) -> String {
    let body = format!("{reason}\n");
    let length = body.len();
    format!(
        "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

/// Appends the part of a frame's payload that begins at `at`.
fn push_masked(
    part: &[u8],
    mask: [u8; 4],
    mut at: usize,
    output: &mut RingBuffer,
) -> Result<(), RingFull> {
    let mut masked = [0; MASKED_AT_ONCE];
    for some in part.chunks(MASKED_AT_ONCE) {
        for (to, from) in masked.iter_mut().zip(some) {
            *to = from ^ mask[at % 4];
            at += 1;
        }
        output.push(&masked[..some.len()])?;
    }
    Ok(())
}

/// One WebSocket after its handshake.
pub struct WebSocket {
    context: WebSocketContext,
    frames: Frames,
    limit: usize,
    /// Of a client: the server's frames have none.
    masks: Option<Box<Masks>>,
}

fn context(limit: usize, role: Role) -> WebSocketContext {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_AHEAD_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(OWN_ANSWERS_BYTES)
        .max_message_size(Some(limit))
        .max_frame_size(Some(limit));
    WebSocketContext::new(role, Some(config))
}

impl WebSocket {
    /// The server's side; messages and frames of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            context: context(limit, Role::Server),
            frames: Frames::new(limit),
            limit,
            masks: None,
        }
    }

    /// The client's side.
    pub fn client(limit: usize) -> Self {
        Self {
            context: context(limit, Role::Client),
            masks: Some(Box::new(Masks::new())),
            ..Self::new(limit)
        }
    }

    /// Whether messages can still be sent: neither side has said goodbye.
    pub fn can_write(&self) -> bool {
        self.context.can_write()
    }

    /// What it holds.
    pub fn memory(&self) -> usize {
        let masks = self.masks.as_ref().map_or(0, |_| size_of::<Masks>());
        size_of::<Self>() + ANSWER_BYTES + self.frames.bytes() + masks
    }

    /// Whether it holds storage that could be given back.
    pub fn has_storage(&self) -> bool {
        self.frames.has_grown()
    }

    /// To be called now and then: gives storage back that was not needed for `quiet_ms`.
    pub fn tick(&mut self, now_ms: u64, quiet_ms: u64) {
        // Tungstenite keeps what it has for ever; between messages a new one does as well.
        if self.frames.may_shrink(now_ms, quiet_ms) && self.context.can_write() {
            let role = match self.masks {
                Some(_) => Role::Client,
                None => Role::Server,
            };
            self.context = context(self.limit, role);
            self.frames = Frames::new(self.limit);
        }
    }

    /// Takes bytes in, hands each binary message to `sink`; answers to pings go to `output`.
    /// Gives whether anything whole came, a ping included.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        output: &mut RingBuffer,
        mut sink: impl FnMut(&[u8]) -> Result<(), PacketError>,
    ) -> Result<bool, CloseReason> {
        let limit_bytes = output.limit();
        let text = self.frames.follow(bytes);
        let bytes = text.map_or(bytes, |end| &bytes[..end]);
        let mut pipe = Pipe::new(bytes, output);
        let mut alive = false;
        loop {
            match self.context.read(&mut pipe) {
                Ok(Message::Binary(message)) => {
                    sink(&message).map_err(CloseReason::Packet)?;
                }
                Ok(Message::Text(_)) => return Err(CloseReason::Text),
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(self.reason_of(error)),
            }
            alive = true;
        }
        // Pongs that nobody reads: the same as packets that nobody reads.
        if pipe.overflow {
            Err(CloseReason::Full { limit_bytes })
        } else if text.is_some() {
            Err(CloseReason::Text)
        } else {
            Ok(alive)
        }
    }

    /// Appends a packet as one binary message: its header, and the `payload` bytes of its parts.
    pub fn write(
        &mut self,
        head: &[u8],
        parts: &[&[u8]],
        payload: usize,
        output: &mut RingBuffer,
    ) -> Result<(), CloseReason> {
        if !self.context.can_write() {
            return Ok(());
        }
        let limit_bytes = output.limit();
        let full = |_| CloseReason::Full { limit_bytes };
        let length = head.len() + payload;
        output.reserve(FRAME_HEAD_BYTES + length).map_err(full)?;
        let mask = match &mut self.masks {
            Some(masks) => Some(masks.next()?),
            None => None,
        };
        let header = FrameHeader {
            opcode: OpCode::Data(Data::Binary),
            mask,
            ..FrameHeader::default()
        };
        // Into the room that was reserved: it can't fail.
        let _ = header.format(length as u64, &mut Pipe::new(&[], output));
        let mut at = 0;
        for part in std::iter::once(&head).chain(parts) {
            match mask {
                Some(mask) => push_masked(part, mask, at, output),
                None => output.push(part),
            }
            .map_err(full)?;
            at += part.len();
        }
        Ok(())
    }

    /// Appends the close frame, if none went out yet.
    pub fn close(&mut self, reason: &CloseReason, output: &mut RingBuffer) {
        let text = reason.to_string();
        let frame = CloseFrame {
            code: reason.websocket_code().into(),
            reason: cut(&text).into(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 300;

    fn frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let mut out = vec![first];
        if payload.len() < 126 {
            out.push(0x80 | payload.len() as u8);
        } else {
            out.push(0x80 | 126);
            out.extend((payload.len() as u16).to_be_bytes());
        }
        out.extend(mask);
        out.extend(
            payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        out
    }

    /// What came, and how it ended.
    fn feed(bytes: &[u8], cuts: &[usize]) -> (Vec<Vec<u8>>, Option<CloseReason>) {
        let mut websocket = WebSocket::new(LIMIT);
        let mut output = RingBuffer::new(1 << 20);
        let (mut messages, mut at) = (Vec::new(), 0);
        for cut in cuts.iter().copied().chain([bytes.len()]) {
            let end = cut.min(bytes.len()).max(at);
            let fed = websocket.feed(&bytes[at..end], &mut output, |message| {
                messages.push(message.to_vec());
                Ok(())
            });
            if let Err(reason) = fed {
                return (messages, Some(reason));
            }
            at = end;
        }
        (messages, None)
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let first = prop_oneof![4 => Just(0x82_u8), 1 => Just(0x02), 1 => Just(0x80), 1 => Just(0x89), 1 => any::<u8>()];
        let one = (
            first,
            proptest::collection::vec(any::<u8>(), 0..LIMIT + 50),
            any::<[u8; 4]>(),
        )
            .prop_map(|(first, payload, mask)| frame(first, &payload, mask));
        (
            proptest::collection::vec(one, 0..6),
            proptest::collection::vec(any::<u8>(), 0..20),
        )
            .prop_map(|(frames, rest)| {
                let mut bytes = frames.concat();
                bytes.extend(rest);
                bytes
            })
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_split_give_the_same_messages(
            bytes in stream(),
            mut cuts in proptest::collection::vec(0_usize..1500, 0..10),
        ) {
            cuts.sort_unstable();
            let (whole, end) = feed(&bytes, &[]);
            let each: Vec<usize> = (0..bytes.len()).collect();
            for cuts in [cuts, each] {
                let (messages, cut_end) = feed(&bytes, &cuts);
                prop_assert_eq!(&messages, &whole);
                prop_assert_eq!(cut_end.is_some(), end.is_some());
            }
        }

        #[test]
        fn any_request_is_taken_or_refused_and_never_kept_beyond_its_limit(
            bytes in "(GET / HTTP/1.1\r\n)?([A-Za-z]{1,10}: [ -~]{0,40}\r\n){0,5}(\r\n)?",
        ) {
            let answered = read_request(bytes.as_bytes(), 0);
            if let Ok(Some((_, size))) = answered {
                prop_assert!(size <= bytes.len());
            }
            let long = vec![b'a'; REQUEST_HEAD_BYTES + 1];
            prop_assert!(read_request(&long, 0).is_err());
        }
    }

    #[test]
    fn a_request_is_accepted_as_in_the_standard() {
        let request =
            b"GET /chat HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\nrest";
        let (answer, size) = read_request(request, 0).unwrap().unwrap();
        assert_eq!(size, request.len() - 4);
        let answer = String::from_utf8(answer).unwrap().to_lowercase();
        assert!(answer.starts_with("http/1.1 101"), "{answer}");
        assert!(answer.contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let mut output = RingBuffer::new(1 << 20);
        WebSocket::new(LIMIT).close(&CloseReason::Handler("\u{20ac}".repeat(60)), &mut output);
        let frame = output.contiguous();
        assert!(frame.len() <= 127);
        assert!(std::str::from_utf8(&frame[4..]).is_ok());
    }
}
