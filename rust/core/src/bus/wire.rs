//! Fields on the wire: fixed ones little-endian, text and lists behind a `u32` length or count.
//!
//! A [`List`] that was decoded was walked once, so that each item is known to be good; iterating
//! reads it again from the borrowed bytes and allocates nothing.

use crate::error::{WireError, WireErrorKind};
use crate::limits::{MAX_LIST_ITEMS, MAX_NAME_BYTES, MAX_TEXT_BYTES};
use std::fmt;

/// Takes fields off the front of borrowed bytes.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

macro_rules! integers {
    ($($name:ident $kind:ty),*) => {$(
        /// The next little-endian integer.
        ///
        /// # Errors
        /// `Truncated`.
        pub fn $name(&mut self, field: &'static str) -> Result<$kind, WireError> {
            let Some((head, rest)) = self.bytes.split_first_chunk() else {
                return Err(self.truncated(field));
            };
            self.bytes = rest;
            Ok(<$kind>::from_le_bytes(*head))
        }
    )*};
}

impl<'a> Reader<'a> {
    /// Reads from the front of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    integers!(u8 u8, u16 u16, u32 u32, u64 u64);

    fn truncated(&self, field: &'static str) -> WireError {
        WireError::new(WireErrorKind::Truncated, field, self.bytes.len() as u64)
    }

    /// What is not read yet.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// The next `length` bytes.
    ///
    /// # Errors
    /// `Truncated`.
    pub fn take(&mut self, field: &'static str, length: usize) -> Result<&'a [u8], WireError> {
        let Some((head, rest)) = self.bytes.split_at_checked(length) else {
            return Err(self.truncated(field));
        };
        self.bytes = rest;
        Ok(head)
    }

    /// Bytes behind a `u32` length, at most `limit` of them.
    ///
    /// # Errors
    /// `OverLimit`, `Truncated`.
    pub fn bytes(&mut self, field: &'static str, limit: usize) -> Result<&'a [u8], WireError> {
        let length = self.u32(field)? as usize;
        if length > limit {
            return Err(WireError::over(field, length as u64, limit as u64));
        }
        self.take(field, length)
    }

    /// UTF-8 behind a `u32` length, at most `limit` bytes of it.
    ///
    /// # Errors
    /// `OverLimit`, `Truncated`, `NotUtf8`.
    pub fn text(&mut self, field: &'static str, limit: usize) -> Result<&'a str, WireError> {
        let bytes = self.bytes(field, limit)?;
        std::str::from_utf8(bytes)
            .map_err(|_| WireError::new(WireErrorKind::NotUtf8, field, bytes.len() as u64))
    }

    /// A name: 1 to 128 bytes of UTF-8, no control characters.
    ///
    /// # Errors
    /// As [`Reader::text`], and `BadName`.
    pub fn name(&mut self, field: &'static str) -> Result<&'a str, WireError> {
        let name = self.text(field, MAX_NAME_BYTES)?;
        check_name(field, name)?;
        Ok(name)
    }

    /// A list behind a `u32` count, at most `limit` items. Each is checked now.
    ///
    /// # Errors
    /// `OverLimit`, or what is wrong with an item.
    pub fn list<T: Item<'a>>(
        &mut self,
        field: &'static str,
        limit: usize,
    ) -> Result<List<'a, T>, WireError> {
        let count = self.u32(field)? as usize;
        if count > limit {
            return Err(WireError::over(field, count as u64, limit as u64));
        }
        let start = self.bytes;
        match T::FIXED_BYTES {
            Some(size) => {
                self.take(field, count * size)?;
            }
            None => {
                for _ in 0..count {
                    T::read(self)?;
                }
            }
        }
        let bytes = &start[..start.len() - self.bytes.len()];
        Ok(List::Encoded { count, bytes })
    }
}

/// Whether `name` may be the name of a player, group, node or service.
///
/// # Errors
/// `OverLimit`, `BadName`.
pub fn check_name(field: &'static str, name: &str) -> Result<(), WireError> {
    if name.len() > MAX_NAME_BYTES {
        return Err(WireError::over(
            field,
            name.len() as u64,
            MAX_NAME_BYTES as u64,
        ));
    }
    // Control characters are U+0000 to U+001F, U+007F and U+0080 to U+009F (first byte 0xc2).
    let plain = name
        .bytes()
        .all(|byte| byte >= 0x20 && byte != 0x7f && byte != 0xc2);
    if name.is_empty() || (!plain && name.chars().any(char::is_control)) {
        return Err(WireError::new(
            WireErrorKind::BadName,
            field,
            name.len() as u64,
        ));
    }
    Ok(())
}

/// Appends fields. Lengths and counts are checked, so that what is written can be read.
#[derive(Debug)]
pub struct Writer<'w> {
    /// Where the bytes go.
    pub out: &'w mut Vec<u8>,
}

impl Writer<'_> {
    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    /// A little-endian integer.
    pub fn u16(&mut self, value: u16) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// A little-endian integer.
    pub fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// A little-endian integer.
    pub fn u64(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// Bytes behind their length.
    ///
    /// # Errors
    /// `OverLimit`.
    pub fn bytes(
        &mut self,
        field: &'static str,
        bytes: &[u8],
        limit: usize,
    ) -> Result<(), WireError> {
        if bytes.len() > limit {
            return Err(WireError::over(field, bytes.len() as u64, limit as u64));
        }
        self.u32(bytes.len() as u32);
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    /// Text behind its length, cut at a character's border if it is over the limit of texts: it is for people.
    pub fn text(&mut self, text: &str) {
        let mut end = text.len().min(MAX_TEXT_BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.u32(end as u32);
        self.out.extend_from_slice(&text.as_bytes()[..end]);
    }

    /// A name behind its length.
    ///
    /// # Errors
    /// `OverLimit`, `BadName`.
    pub fn name(&mut self, field: &'static str, name: &str) -> Result<(), WireError> {
        check_name(field, name)?;
        self.bytes(field, name.as_bytes(), MAX_NAME_BYTES)
    }

    /// A list behind its count.
    ///
    /// # Errors
    /// `OverLimit`, or what is wrong with an item.
    pub fn list<'a, T: Item<'a>>(
        &mut self,
        field: &'static str,
        list: &List<'a, T>,
        limit: usize,
    ) -> Result<(), WireError> {
        if list.len() > limit.min(MAX_LIST_ITEMS) {
            return Err(WireError::over(field, list.len() as u64, limit as u64));
        }
        self.u32(list.len() as u32);
        match list {
            List::Encoded { bytes, .. } => self.out.extend_from_slice(bytes),
            List::Items(items) => {
                for item in *items {
                    item.write(self)?;
                }
            }
        }
        Ok(())
    }
}

/// What can stand in a list.
pub trait Item<'a>: Copy + PartialEq + fmt::Debug {
    /// The size, if every value of every field is good and all items have the same size.
    const FIXED_BYTES: Option<usize> = None;

    /// Takes one off the front.
    ///
    /// # Errors
    /// What is wrong with it.
    fn read(from: &mut Reader<'a>) -> Result<Self, WireError>;

    /// Appends one.
    ///
    /// # Errors
    /// What is wrong with it.
    fn write(&self, to: &mut Writer<'_>) -> Result<(), WireError>;
}

/// A list of a message: borrowed bytes when it was decoded, a slice when it is to be encoded.
#[derive(Clone, Copy)]
pub enum List<'a, T> {
    /// From a frame; checked.
    Encoded {
        /// How many items.
        count: usize,
        /// Their bytes, without the count.
        bytes: &'a [u8],
    },
    /// To be encoded.
    Items(&'a [T]),
}

impl<'a, T: Item<'a>> List<'a, T> {
    /// How many items.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::Encoded { count, .. } => *count,
            Self::Items(items) => items.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The items in order, by value.
    #[must_use]
    pub const fn iter(&self) -> ListIter<'a, T> {
        match *self {
            Self::Encoded { count, bytes } => ListIter::Encoded(count, Reader::new(bytes)),
            Self::Items(items) => ListIter::Items(items),
        }
    }
}

impl<T> Default for List<'_, T> {
    fn default() -> Self {
        Self::Items(&[])
    }
}

impl<'a, T> From<&'a [T]> for List<'a, T> {
    fn from(items: &'a [T]) -> Self {
        Self::Items(items)
    }
}

impl<'a, T> From<&'a Vec<T>> for List<'a, T> {
    fn from(items: &'a Vec<T>) -> Self {
        Self::Items(items)
    }
}

impl<'a, T, const N: usize> From<&'a [T; N]> for List<'a, T> {
    fn from(items: &'a [T; N]) -> Self {
        Self::Items(items)
    }
}

impl<'a, T: Item<'a>> PartialEq for List<'a, T> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<'a, T: Item<'a>> fmt::Debug for List<'a, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a, T: Item<'a>> IntoIterator for List<'a, T> {
    type Item = T;
    type IntoIter = ListIter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Iterates over a [`List`].
#[derive(Debug, Clone)]
pub enum ListIter<'a, T> {
    /// How many are left, and their bytes.
    Encoded(usize, Reader<'a>),
    /// What is left.
    Items(&'a [T]),
}

impl<'a, T: Item<'a>> Iterator for ListIter<'a, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        match self {
            Self::Encoded(0, _) => None,
            Self::Encoded(left, reader) => {
                *left -= 1;
                T::read(reader).ok()
            }
            Self::Items(items) => {
                let (first, rest) = items.split_first()?;
                *items = rest;
                Some(*first)
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = match self {
            Self::Encoded(left, _) => *left,
            Self::Items(items) => items.len(),
        };
        (left, Some(left))
    }
}

impl<'a> Item<'a> for &'a str {
    fn read(from: &mut Reader<'a>) -> Result<Self, WireError> {
        from.name("name")
    }

    fn write(&self, to: &mut Writer<'_>) -> Result<(), WireError> {
        to.name("name", self)
    }
}
