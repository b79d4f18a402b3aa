//! What can be wrong with bytes that came from outside: the kind, the limit, the value, the place.

use std::fmt;

/// Why bytes were not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireErrorKind {
    /// The bytes end inside a field.
    Truncated,
    /// Bytes are left behind the last field.
    Trailing,
    /// A length or count is over a limit.
    OverLimit,
    /// No message of this kind.
    UnknownKind,
    /// A flag, an enumeration or a reserved field has a value that has no meaning.
    BadValue,
    /// Text that is not UTF-8.
    NotUtf8,
    /// A name that is empty or has a control character.
    BadName,
}

/// Bytes that were not accepted, and why. `Display` is one line for logs and for the error message to the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireError {
    /// Why.
    pub kind: WireErrorKind,
    /// The field or limit in question.
    pub field: &'static str,
    /// What the field holds: a length, a count, a value.
    pub value: u64,
    /// The most it may be, where the kind is `OverLimit`; else 0.
    pub limit: u64,
}

impl WireError {
    /// An error about a field's value.
    #[must_use]
    pub const fn new(kind: WireErrorKind, field: &'static str, value: u64) -> Self {
        Self {
            kind,
            field,
            value,
            limit: 0,
        }
    }

    /// A length or count over its limit.
    #[must_use]
    pub const fn over(field: &'static str, value: u64, limit: u64) -> Self {
        Self {
            kind: WireErrorKind::OverLimit,
            field,
            value,
            limit,
        }
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            field,
            value,
            limit,
        } = self;
        match kind {
            WireErrorKind::Truncated => {
                write!(f, "{field}: the bytes end inside it ({value} left)")
            }
            WireErrorKind::Trailing => write!(f, "{field}: {value} bytes behind its last field"),
            WireErrorKind::OverLimit => write!(f, "{field}: {value} is over the limit of {limit}"),
            WireErrorKind::UnknownKind => write!(f, "unknown message kind {value:#04x}"),
            WireErrorKind::BadValue => write!(f, "{field}: {value} has no meaning"),
            WireErrorKind::NotUtf8 => write!(f, "{field}: not UTF-8 ({value} bytes)"),
            WireErrorKind::BadName => write!(
                f,
                "{field}: a name has 1 to 128 bytes and no control characters ({value} bytes)"
            ),
        }
    }
}

impl std::error::Error for WireError {}
