use std::net::{IpAddr, SocketAddr};

use super::limits::MAX_TOKEN_SERVERS;
use super::token::TokenError;

/// Writes fields one after another into a buffer whose size the caller has proved sufficient.
pub(super) struct Writer<'a> {
    buffer: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, at: 0 }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.buffer[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    /// A count and that many addresses; the count is the caller's to check.
    pub(super) fn addresses(&mut self, addresses: &[SocketAddr]) {
        self.u32(addresses.len() as u32);
        for address in addresses {
            match address.ip() {
                IpAddr::V4(ip) => {
                    self.bytes(&[1]);
                    self.bytes(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    self.bytes(&[2]);
                    for segment in ip.segments() {
                        self.bytes(&segment.to_le_bytes());
                    }
                }
            }
            self.bytes(&address.port().to_le_bytes());
        }
    }
}

/// Reads fields one after another; too few bytes are an error, never a panic.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], TokenError> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(TokenError::Length {
                limit: N,
                value: self.rest.len(),
            })?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, TokenError> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, TokenError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, TokenError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, TokenError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A count, checked before anything is allocated, and that many addresses.
    pub(super) fn addresses(&mut self) -> Result<Vec<SocketAddr>, TokenError> {
        let count = self.u32()? as usize;
        if !(1..=MAX_TOKEN_SERVERS).contains(&count) {
            return Err(TokenError::Servers {
                limit: MAX_TOKEN_SERVERS,
                value: count,
            });
        }
        (0..count).map(|_| self.address()).collect()
    }

    fn address(&mut self) -> Result<SocketAddr, TokenError> {
        let ip: IpAddr = match self.u8()? {
            1 => self.array::<4>()?.into(),
            2 => {
                let mut segments = [0u16; 8];
                for segment in &mut segments {
                    *segment = self.u16()?;
                }
                segments.into()
            }
            value => return Err(TokenError::AddressType { value }),
        };
        Ok(SocketAddr::new(ip, self.u16()?))
    }
}
