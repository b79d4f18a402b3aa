//! The client's side of a WebSocket's beginning: its URL, its request, the server's answer; and the masks
//! that its frames must have (RFC 6455 sections 3, 4.1 and 5.3). Public for the fuzz targets.

use std::io;

use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::client::{Response, generate_request};
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::machine::TryParse;
use tungstenite::http::Uri;

use super::reason::CloseReason;
use super::websocket::head_end;

/// The longest URL: what goes into a request's head with room for its headers.
const URL_BYTES: usize = 4_096;
/// Random bytes that are taken at once: masks of 64 frames.
const MASKS_BYTES: usize = 256;

/// Where a WebSocket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocketUrl {
    uri: Uri,
    tls: bool,
}

fn bad(url: &str, what: &str) -> io::Error {
    let shown: String = url.chars().take(100).collect();
    io::Error::new(io::ErrorKind::InvalidInput, format!("{shown:?}: {what}"))
}

impl WebSocketUrl {
    /// `ws://host:port/path?query`, or `wss://...` by TLS; the port may be left out.
    ///
    /// # Errors
    /// It is no such URL.
    pub fn parse(url: &str) -> io::Result<Self> {
        if url.len() > URL_BYTES {
            return Err(bad(url, &format!("more than {URL_BYTES} bytes")));
        }
        let uri: Uri = url.parse().map_err(|_| bad(url, "no URL"))?;
        let tls = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            _ => return Err(bad(url, "must begin with ws:// or wss://")),
        };
        match uri.authority() {
            Some(authority) if authority.host().is_empty() => Err(bad(url, "no host")),
            Some(authority) if authority.as_str().contains('@') => {
                Err(bad(url, "names and passwords are not sent"))
            }
            Some(_) => Ok(Self { uri, tls }),
            None => Err(bad(url, "no host")),
        }
    }

    /// Whether it is reached by TLS.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        self.tls
    }

    /// The host, an IPv6 address without its brackets: what a certificate names.
    #[must_use]
    pub fn host(&self) -> &str {
        let host = self.uri.host().unwrap_or_default();
        host.trim_matches(['[', ']'])
    }

    /// `host:port`.
    pub(super) fn address(&self) -> String {
        let port = self
            .uri
            .port_u16()
            .unwrap_or(if self.tls { 443 } else { 80 });
        format!("{}:{port}", self.uri.host().unwrap_or_default())
    }

    pub(super) fn ask(&self) -> io::Result<Ask> {
        let request = self.uri.clone().into_client_request();
        let made = request.and_then(generate_request);
        let (request, key) =
            made.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))?;
        let accept = derive_accept_key(key.as_bytes());
        Ok(Ask { request, accept })
    }
}

/// A request, and what the answer to it must hold.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) request: Vec<u8>,
    pub(super) accept: String,
}

/// Looks for the answer; gives its bytes once it is whole. `seen` bytes at the front hold no whole one.
pub fn read_answer(bytes: &[u8], seen: usize, accept: &str) -> Result<Option<usize>, CloseReason> {
    let bad = |what: String| CloseReason::Answer(what);
    if head_end(bytes, seen).map_err(bad)?.is_none() {
        return Ok(None);
    }
    let parsed = Response::try_parse(bytes).map_err(|error| bad(error.to_string()))?;
    let Some((size, answer)) = parsed else {
        return Ok(None);
    };
    let header = |name: &str| {
        answer
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let names = |name: &str, token: &str| {
        let all = header(name).unwrap_or_default().split(',');
        all.map(str::trim)
            .any(|one| one.eq_ignore_ascii_case(token))
    };
    let wrong = if answer.status().as_u16() != 101 {
        format!("status {}", answer.status())
    } else if !names("Upgrade", "websocket") || !names("Connection", "upgrade") {
        "no upgrade to a WebSocket".to_owned()
    } else if header("Sec-WebSocket-Accept") != Some(accept) {
        "not to this request".to_owned()
    } else if header("Sec-WebSocket-Extensions").is_some()
        || header("Sec-WebSocket-Protocol").is_some()
    {
        "an extension or protocol that was not asked for".to_owned()
    } else {
        return Ok(Some(size));
    };
    Err(bad(wrong))
}

/// Masks for frames: nobody may guess the next one.
pub(super) struct Masks {
    bytes: [u8; MASKS_BYTES],
    used: usize,
}

impl Masks {
    pub(super) fn new() -> Self {
        Self {
            bytes: [0; MASKS_BYTES],
            used: MASKS_BYTES,
        }
    }

    pub(super) fn next(&mut self) -> Result<[u8; 4], CloseReason> {
        if self.used == MASKS_BYTES {
            getrandom::fill(&mut self.bytes)
                .map_err(|_| CloseReason::Broken(io::ErrorKind::Other))?;
            self.used = 0;
        }
        let mask = std::array::from_fn(|index| self.bytes[self.used + index]);
        self.used += mask.len();
        Ok(mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(lines: &[&str]) -> Result<Option<usize>, CloseReason> {
        let text = format!("{}\r\n\r\nrest", lines.join("\r\n"));
        let whole = read_answer(text.as_bytes(), 0, "right");
        // Byte by byte it is the same.
        let mut seen = 0;
        for end in 0..=text.len() {
            match read_answer(&text.as_bytes()[..end], seen, "right") {
                Ok(None) => seen = end,
                found => {
                    assert_eq!(found, whole);
                    return found;
                }
            }
        }
        whole
    }

    #[test]
    fn only_the_answer_to_the_request_is_taken() {
        let status = "HTTP/1.1 101 Switching Protocols";
        let upgrade = ["Upgrade: WebSocket", "Connection: keep-alive, Upgrade"];
        let accept = "Sec-WebSocket-Accept: right";
        let good = [status, upgrade[0], upgrade[1], accept];
        let bytes = good.join("\r\n").len() + 4;
        assert_eq!(answer(&good), Ok(Some(bytes)));
        for (lines, what) in [
            (vec!["HTTP/1.1 302 Found", "Location: /"], "status 302"),
            (vec![status, upgrade[0], accept], "no upgrade"),
            (vec![status, upgrade[1], accept], "no upgrade"),
            (vec![status, upgrade[0], upgrade[1]], "not to this request"),
            (
                vec![
                    status,
                    upgrade[0],
                    upgrade[1],
                    "Sec-WebSocket-Accept: Right",
                ],
                "not to this request",
            ),
            (
                [&good[..], &["Sec-WebSocket-Extensions: permessage-deflate"]].concat(),
                "not asked for",
            ),
            (
                [&good[..], &["Sec-WebSocket-Protocol: mqtt"]].concat(),
                "not asked for",
            ),
            (vec!["SSH-2.0-x"], "HTTP"),
        ] {
            let reason = answer(&lines).unwrap_err();
            assert!(matches!(reason, CloseReason::Answer(_)));
            let reason = reason.to_string();
            assert!(reason.contains(what), "{reason}");
        }
        let endless = vec![b'a'; 20_000];
        assert!(read_answer(&endless, 0, "right").is_err());
    }

    #[test]
    fn a_url_says_where_and_how() {
        let url = WebSocketUrl::parse("wss://[::1]/play?room=1").unwrap();
        assert!(url.has_tls());
        assert_eq!((url.host(), url.address().as_str()), ("::1", "[::1]:443"));
        let ask = url.ask().unwrap();
        let request = String::from_utf8(ask.request).unwrap();
        assert!(
            request.starts_with("GET /play?room=1 HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(request.contains("Host: [::1]\r\n"), "{request}");
        let url = WebSocketUrl::parse("ws://example.org:8080").unwrap();
        assert!(!url.has_tls());
        assert_eq!(url.address(), "example.org:8080");
        assert!(
            url.ask()
                .unwrap()
                .request
                .starts_with(b"GET / HTTP/1.1\r\n")
        );
        for wrong in [
            "",
            "http://example.org/",
            "ws:///path",
            "ws://user:word@example.org/",
            "ws://exam ple.org/",
            "ws://example.org/a\r\nHost: b",
            &format!("ws://example.org/{}", "a".repeat(5_000)),
        ] {
            let error = WebSocketUrl::parse(wrong).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{wrong}");
        }
    }

    #[test]
    fn masks_differ() {
        let mut masks = Masks::new();
        let all: std::collections::HashSet<_> = (0..1_000).map(|_| masks.next().unwrap()).collect();
        assert!(all.len() > 990);
    }
}
