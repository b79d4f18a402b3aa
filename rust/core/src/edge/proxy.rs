//! PROXY protocol version 2: the header by which a proxy names the client it speaks for.
//!
//! ```text
//!   12 bytes signature | version 2, command | family, transport | u16 length | addresses | TLVs
//! ```
//!
//! Big-endian; the standard is HAProxy's `proxy-protocol.txt`, section 2.2. Strict: what the standard
//! does not allow on a byte stream is an error, for the header decides who a client is.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// What every header begins with.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes before the addresses.
pub const FIXED_BYTES: usize = 16;
/// The longest header: the largest addresses, and TLVs with a certificate's names; the standard's own
/// examples stay under 536.
pub const LONGEST_BYTES: usize = 4_096;
/// Bytes of the addresses of two Unix sockets.
const UNIX_BYTES: usize = 216;
const TLV_CRC32C: u8 = 0x03;
const TLV_UNIQUE_ID: u8 = 0x05;
/// The longest unique id (section 2.2.5).
const UNIQUE_ID_BYTES: usize = 128;

/// Whom a connection comes from, as the proxy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The proxy speaks for itself (a health check), or does not know: the connection's own address.
    Own,
    /// A client over IP.
    Ip(SocketAddr),
    /// A client on a Unix socket of the proxy's machine; its path is of no use here.
    Unix,
}

/// A header and how many bytes it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Whom the connection comes from.
    pub source: Source,
    /// Bytes of the header; the client's own begin there.
    pub bytes: usize,
}

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyError {
    /// Something else than the signature: not a proxy, or one that speaks version 1.
    Signature,
    /// Another version than 2.
    Version {
        /// It.
        version: u8,
    },
    /// Another command than LOCAL and PROXY.
    Command {
        /// It.
        command: u8,
    },
    /// A family and transport that the standard does not have, or a datagram's on a stream.
    Family {
        /// The byte.
        family: u8,
    },
    /// Longer than we take.
    TooLong {
        /// Bytes of the header.
        bytes: usize,
        /// The most it may have.
        limit_bytes: usize,
    },
    /// Too short for its addresses, or a TLV that does not end where the header does.
    Cut {
        /// Where in the header.
        at: usize,
    },
    /// A second checksum, or one that is not 4 bytes long, or an id over its limit.
    BadTlv {
        /// Its kind.
        kind: u8,
    },
    /// The checksum is another one.
    Checksum {
        /// What the header says.
        said: u32,
        /// What it is.
        is: u32,
    },
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signature => f.write_str("no PROXY version 2 signature"),
            Self::Version { version } => write!(f, "version {version}: must be 2"),
            Self::Command { command } => write!(f, "command {command}: must be 0 or 1"),
            Self::Family { family } => write!(f, "family {family:#04x}: not one of a stream"),
            Self::TooLong { bytes, limit_bytes } => {
                write!(f, "header of {bytes} bytes: limit {limit_bytes}")
            }
            Self::Cut { at } => write!(f, "cut off at byte {at}"),
            Self::BadTlv { kind } => write!(f, "bad TLV of kind {kind:#04x}"),
            Self::Checksum { said, is } => write!(f, "checksum {said:#010x}: is {is:#010x}"),
        }
    }
}

impl std::error::Error for ProxyError {}

/// Looks for a header at the front of a stream; `None` when it is not whole yet.
///
/// # Errors
/// [`ProxyError`] as soon as the bytes can't become a header.
pub fn parse(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let common = bytes.len().min(SIGNATURE.len());
    if bytes[..common] != SIGNATURE[..common] {
        return Err(ProxyError::Signature);
    }
    if let Some(&byte) = bytes.get(12) {
        if byte >> 4 != 2 {
            return Err(ProxyError::Version { version: byte >> 4 });
        }
        if byte & 15 > 1 {
            return Err(ProxyError::Command { command: byte & 15 });
        }
    }
    let Some(&[.., command, family, high, low]) = bytes.first_chunk::<FIXED_BYTES>() else {
        return Ok(None);
    };
    let size = FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if size > LONGEST_BYTES {
        return Err(ProxyError::TooLong {
            bytes: size,
            limit_bytes: LONGEST_BYTES,
        });
    }
    let Some(header) = bytes.get(..size) else {
        return Ok(None);
    };
    // LOCAL: the rest says nothing that counts, whatever it says (section 2.2).
    let source = if command & 15 == 0 {
        Source::Own
    } else {
        read_source(header, family)?
    };
    Ok(Some(ProxyHeader {
        source,
        bytes: size,
    }))
}

fn read_source(header: &[u8], family: u8) -> Result<Source, ProxyError> {
    let cut = ProxyError::Cut { at: header.len() };
    let addresses = &header[FIXED_BYTES..];
    let (source, length) = match family {
        0x00 => (Source::Own, 0),
        0x11 => {
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *addresses.first_chunk().ok_or(cut)?;
            let port = u16::from_be_bytes([high, low]);
            let ip = Ipv4Addr::new(a, b, c, d);
            (Source::Ip(SocketAddr::new(ip.into(), port)), 12)
        }
        0x21 => {
            let ip: [u8; 16] = *addresses.first_chunk().ok_or(cut)?;
            let rest = addresses.get(32..36).ok_or(cut)?;
            let port = u16::from_be_bytes([rest[0], rest[1]]);
            let ip = Ipv6Addr::from(ip);
            (Source::Ip(SocketAddr::new(ip.into(), port)), 36)
        }
        0x31 if addresses.len() < UNIX_BYTES => return Err(cut),
        0x31 => (Source::Unix, UNIX_BYTES),
        family => return Err(ProxyError::Family { family }),
    };
    check_tlvs(header, FIXED_BYTES + length)?;
    Ok(source)
}

/// Each TLV is whole, the last ends with the header, and a checksum is right.
fn check_tlvs(header: &[u8], mut at: usize) -> Result<(), ProxyError> {
    let mut checksum = None;
    while at < header.len() {
        let cut = ProxyError::Cut { at };
        let &[kind, high, low] = header[at..].first_chunk().ok_or(cut)?;
        let start = at + 3;
        let value = header[start..]
            .get(..usize::from(u16::from_be_bytes([high, low])))
            .ok_or(cut)?;
        match (kind, value) {
            (TLV_CRC32C, &[a, b, c, d]) if checksum.is_none() => {
                checksum = Some((start, u32::from_be_bytes([a, b, c, d])));
            }
            (TLV_CRC32C, _) => return Err(ProxyError::BadTlv { kind }),
            (TLV_UNIQUE_ID, value) if value.len() > UNIQUE_ID_BYTES => {
                return Err(ProxyError::BadTlv { kind });
            }
            _ => {}
        }
        at = start + value.len();
    }
    match checksum {
        None => Ok(()),
        Some((place, said)) => {
            let is = crc32c(header, place..place + 4);
            if is == said {
                Ok(())
            } else {
                Err(ProxyError::Checksum { said, is })
            }
        }
    }
}

/// CRC32c (RFC 4960 appendix B) of the header with the checksum's own bytes taken as zero. Bit by bit:
/// it is needed once a connection, if at all.
fn crc32c(bytes: &[u8], zero: std::ops::Range<usize>) -> u32 {
    let mut crc = u32::MAX;
    for (index, byte) in bytes.iter().enumerate() {
        crc ^= if zero.contains(&index) {
            0
        } else {
            u32::from(*byte)
        };
        for _ in 0..8 {
            crc = crc >> 1 ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend((value.len() as u16).to_be_bytes());
        bytes.extend(value);
        bytes
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x1f, 0x90, 1, 187];

    fn with_tlvs(tlvs: &[u8]) -> Vec<u8> {
        header(0x21, 0x11, &[&V4, tlvs].concat())
    }

    /// A right checksum in front of other TLVs.
    fn sealed(tlvs: &[u8]) -> Vec<u8> {
        let mut bytes = with_tlvs(&[&tlv(TLV_CRC32C, &[0; 4]), tlvs].concat());
        let place = FIXED_BYTES + 12 + 3;
        let crc = crc32c(&bytes, 0..0);
        bytes[place..place + 4].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    fn error(bytes: &[u8]) -> ProxyError {
        parse(bytes).unwrap_err()
    }

    #[test]
    fn names_the_client() {
        let mut v6 = vec![0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        v6.extend([0; 16]);
        v6.extend([0x1f, 0x90, 0, 80]);
        let unix = [7; UNIX_BYTES];
        let ip = |text: &str| Source::Ip(text.parse().unwrap());
        for (bytes, source) in [
            (header(0x21, 0x11, &V4), ip("192.0.2.7:8080")),
            (header(0x21, 0x21, &v6), ip("[2001:db8::1]:8080")),
            (header(0x21, 0x31, &unix), Source::Unix),
            (header(0x21, 0x00, b""), Source::Own),
            (header(0x20, 0x00, b""), Source::Own),
            (header(0x20, 0xff, b"anything"), Source::Own),
            (
                with_tlvs(&[tlv(2, b"example.org"), tlv(4, b"")].concat()),
                ip("192.0.2.7:8080"),
            ),
            (sealed(&tlv(5, &[9; 128])), ip("192.0.2.7:8080")),
        ] {
            let whole = ProxyHeader {
                source,
                bytes: bytes.len(),
            };
            assert_eq!(parse(&bytes), Ok(Some(whole)));
            let followed = [bytes.as_slice(), b"GET /"].concat();
            assert_eq!(parse(&followed), Ok(Some(whole)));
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "cut at {cut}");
            }
        }
    }

    #[test]
    fn refuses_what_is_no_header() {
        assert_eq!(error(b"PROXY TCP4"), ProxyError::Signature);
        assert_eq!(error(b"G"), ProxyError::Signature);
        let version = header(0x11, 0x11, &V4);
        assert_eq!(error(&version[..13]), ProxyError::Version { version: 1 });
        let command = header(0x22, 0x11, &V4);
        assert_eq!(error(&command), ProxyError::Command { command: 2 });
        for family in [0x12, 0x22, 0x32, 0x01, 0x10, 0x41] {
            let bytes = header(0x21, family, &[0; 300]);
            assert_eq!(error(&bytes), ProxyError::Family { family });
        }
        assert_eq!(
            error(&header(0x21, 0x11, &V4[..11])),
            ProxyError::Cut { at: 27 }
        );
        assert_eq!(
            error(&header(0x21, 0x31, &[0; 215])),
            ProxyError::Cut { at: 231 }
        );
        let long = header(0x21, 0x11, &[0; 5_000]);
        let limit_bytes = LONGEST_BYTES;
        assert_eq!(
            error(&long[..16]),
            ProxyError::TooLong {
                bytes: 5_016,
                limit_bytes
            }
        );
    }

    #[test]
    fn refuses_bad_tlvs() {
        for cut in [&[1][..], &[1, 0], &[1, 0, 2, 0]] {
            assert_eq!(error(&with_tlvs(cut)), ProxyError::Cut { at: 28 });
        }
        let short = with_tlvs(&tlv(TLV_CRC32C, &[0; 3]));
        assert_eq!(error(&short), ProxyError::BadTlv { kind: TLV_CRC32C });
        let twice = sealed(&tlv(TLV_CRC32C, &[0; 4]));
        assert_eq!(error(&twice), ProxyError::BadTlv { kind: TLV_CRC32C });
        let id = with_tlvs(&tlv(TLV_UNIQUE_ID, &[0; 129]));
        let kind = TLV_UNIQUE_ID;
        assert_eq!(error(&id), ProxyError::BadTlv { kind });
        let mut forged = sealed(b"");
        forged[FIXED_BYTES] ^= 1;
        assert!(matches!(error(&forged), ProxyError::Checksum { .. }));
    }

    #[test]
    fn the_checksum_is_the_standards() {
        // RFC 3720 appendix B.4.
        assert_eq!(crc32c(&[0; 32], 0..0), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32], 0..0), 0x62a8_ab43);
        assert_eq!(crc32c(&[0xff; 32], 0..32), 0x8a91_36aa);
    }

    proptest! {
        /// Total: any bytes, with or without a right begin, give a header, an error or the wish for more.
        #[test]
        fn any_bytes_in_any_split_give_one_answer(
            signed: bool,
            command in prop_oneof![Just(0x20_u8), Just(0x21), any::<u8>()],
            family in prop_oneof![Just(0x11_u8), Just(0x21), Just(0x31), any::<u8>()],
            body in proptest::collection::vec(any::<u8>(), 0..400),
            rest in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let bytes = if signed { [header(command, family, &body), rest].concat() } else { body };
            let whole = parse(&bytes);
            for cut in 0..bytes.len() {
                match parse(&bytes[..cut]) {
                    Ok(None) => {}
                    early => {
                        prop_assert_eq!(early, whole);
                        break;
                    }
                }
            }
            if let Ok(Some(found)) = whole {
                prop_assert!(found.bytes <= bytes.len());
                let own = &bytes[..found.bytes];
                prop_assert_eq!(parse(own), whole);
            }
        }
    }
}
