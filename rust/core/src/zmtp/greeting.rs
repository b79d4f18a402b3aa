//! The first 64 bytes in each direction (RFC 37, "Greeting").

use super::error::ZmtpError;
use super::limits::GREETING_BYTES;

/// What a greeting says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Greeting {
    pub minor: u8,
    /// Padded with zeros.
    pub mechanism: [u8; 20],
    pub as_server: bool,
}

/// A mechanism's name as it stands in a greeting.
pub(super) const fn mechanism(name: &[u8]) -> [u8; 20] {
    let mut padded = [0; 20];
    let mut i = 0;
    while i < name.len() {
        padded[i] = name[i];
        i += 1;
    }
    padded
}

impl Greeting {
    /// Our version is 3.1. Where ZMTP 1 has the length of its first frame, libzmq writes that of the
    /// identity with a flags byte; so do we.
    pub fn encode(&self, identity_bytes: usize) -> [u8; GREETING_BYTES] {
        let mut bytes = [0; GREETING_BYTES];
        bytes[0] = 0xff;
        bytes[1..9].copy_from_slice(&(identity_bytes as u64 + 1).to_be_bytes());
        bytes[9] = 0x7f;
        bytes[10] = 3;
        bytes[11] = self.minor;
        bytes[12..32].copy_from_slice(&self.mechanism);
        bytes[32] = u8::from(self.as_server);
        bytes
    }

    /// What has come so far: an error as soon as one is certain, a greeting once it is whole.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, ZmtpError> {
        if bytes.first().is_some_and(|&first| first != 0xff)
            || bytes.get(9).is_some_and(|&b| b & 1 == 0)
        {
            return Err(ZmtpError::NotZmtp);
        }
        match bytes.get(10) {
            Some(&major) if major < 3 => return Err(ZmtpError::OldVersion(major)),
            _ => {}
        }
        let Some(bytes) = bytes.first_chunk::<GREETING_BYTES>() else {
            return Ok(None);
        };
        if bytes[32] > 1 {
            return Err(ZmtpError::Malformed("greeting"));
        }
        let mut mechanism = [0; 20];
        mechanism.copy_from_slice(&bytes[12..32]);
        Ok(Some(Self {
            // A later major version speaks ours to us (RFC 37, "Version negotiation").
            minor: if bytes[10] == 3 { bytes[11] } else { 1 },
            mechanism,
            as_server: bytes[32] == 1,
        }))
    }

    /// The mechanism for a log line.
    pub fn mechanism_name(&self) -> String {
        let end = self.mechanism.iter().position(|&b| b == 0).unwrap_or(20);
        String::from_utf8_lossy(&self.mechanism[..end]).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_and_says_early_what_is_wrong() {
        let ours = Greeting {
            minor: 1,
            mechanism: mechanism(b"CURVE"),
            as_server: true,
        };
        let bytes = ours.encode(0);
        assert_eq!(Greeting::decode(&bytes), Ok(Some(ours)));
        for end in 0..64 {
            assert_eq!(Greeting::decode(&bytes[..end]), Ok(None), "{end}");
        }
        assert_eq!(ours.mechanism_name(), "CURVE");
        assert_eq!(Greeting::decode(b"G"), Err(ZmtpError::NotZmtp));
        assert_eq!(
            Greeting::decode(&[0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7e]),
            Err(ZmtpError::NotZmtp)
        );
        // ZMTP 2.0: revision 1, socket type 5.
        let old = [0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 1, 5];
        assert_eq!(Greeting::decode(&old), Err(ZmtpError::OldVersion(1)));
        let mut later = bytes;
        later[10] = 4;
        later[11] = 7;
        assert_eq!(Greeting::decode(&later).unwrap().unwrap().minor, 1);
    }
}
