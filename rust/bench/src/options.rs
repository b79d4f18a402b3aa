//! `zmqgame-load WHAT HOST:PORT [key=value ...]`.

use std::collections::BTreeMap;
use std::io;

use zmqgame_core::zmtp::{Config, Role, SecretKey, Security};

/// What the command line says.
pub struct Options {
    /// The kind of load.
    pub what: String,
    /// The hub's address.
    pub address: String,
    values: BTreeMap<String, String>,
}

impl Options {
    /// From the words behind the program's name.
    ///
    /// # Errors
    /// Too few of them, or one that is not `key=value`.
    pub fn parse(mut words: impl Iterator<Item = String>) -> io::Result<Self> {
        let missing = || io::Error::other("write WHAT HOST:PORT [key=value ...]");
        let what = words.next().ok_or_else(missing)?;
        let address = words.next().ok_or_else(missing)?;
        let mut values = BTreeMap::new();
        for word in words {
            let (key, value) = word.split_once('=').ok_or_else(missing)?;
            values.insert(key.to_owned(), value.to_owned());
        }
        Ok(Self {
            what,
            address,
            values,
        })
    }

    /// Takes the options of a round over those of the start.
    pub fn with(&self, line: &str) -> Self {
        let mut values = self.values.clone();
        values.extend(
            line.split_whitespace()
                .filter_map(|word| word.split_once('='))
                .map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        Self {
            what: self.what.clone(),
            address: self.address.clone(),
            values,
        }
    }

    /// A number, or its default.
    pub fn number(&self, key: &str, default: usize) -> usize {
        self.values
            .get(key)
            .and_then(|value| value.parse().ok())
            .unwrap_or(default)
    }

    /// A text, or its default.
    pub fn text<'a>(&'a self, key: &str, default: &'a str) -> &'a str {
        self.values.get(key).map_or(default, String::as_str)
    }

    /// NULL, or CURVE with a fresh key where the hub's public key is given in hexadecimal.
    ///
    /// # Errors
    /// It is no key, or there is no randomness.
    pub fn zmtp(&self) -> io::Result<Config> {
        let Some(text) = self.values.get("curve") else {
            return Ok(Config::new(Role::Client, Security::Null));
        };
        let bytes: Option<Vec<u8>> = (0..text.len() / 2)
            .map(|at| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).ok())
            .collect();
        let server = bytes
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .ok_or_else(|| io::Error::other("curve is not 64 hexadecimal digits"))?;
        let mut secret = [0; 32];
        zmqgame_reactor::random(&mut secret)?;
        let secret = SecretKey::new(secret);
        Ok(Config::new(
            Role::Client,
            Security::CurveClient { server, secret },
        ))
    }
}
