//! Whose PROXY headers a listener believes.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::reason::CloseReason;
use crate::listener::Peer;

/// Networks of one listener's proxies: each is compared when somebody connects.
pub const MOST_NETWORKS: usize = 1_024;

/// Whose PROXY protocol headers (version 2) a listener believes. Where it believes any, each connection must
/// begin with one, and the client that it names becomes the peer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Proxies {
    /// Nobody's: connections are the clients' own.
    #[default]
    None,
    /// Those of everybody who can connect: for where nobody but the proxy can.
    Any,
    /// Those of proxies in these networks; who is in none of them is refused.
    Of(Arc<[IpNet]>),
}

impl From<bool> for Proxies {
    fn from(any: bool) -> Self {
        if any { Self::Any } else { Self::None }
    }
}

/// A text that is no list of networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadNetworks {
    /// Not one network: nobody could connect.
    Empty,
    /// More than are allowed.
    TooMany {
        /// So many.
        networks: usize,
    },
    /// No address and no network.
    NoNetwork {
        /// The text.
        text: String,
    },
    /// An address within a network: what is meant is not clear.
    HostBits {
        /// The text.
        text: String,
        /// The network that it is in.
        network: IpNet,
    },
}

impl fmt::Display for BadNetworks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("no network of a proxy: nobody could connect"),
            Self::TooMany { networks } => write!(f, "{networks} networks: limit {MOST_NETWORKS}"),
            Self::NoNetwork { text } => {
                write!(f, "{text:?} is no network such as 10.0.0.0/8 or 10.0.0.7")
            }
            Self::HostBits { text, network } => {
                write!(f, "{text:?} is an address in the network {network}")
            }
        }
    }
}

impl std::error::Error for BadNetworks {}

impl Proxies {
    /// Those in these networks: `10.0.0.0/8`, `2001:db8::/32`, or single addresses.
    ///
    /// # Errors
    /// The first text that is no network, or their number.
    pub fn of(texts: &[impl AsRef<str>]) -> Result<Self, BadNetworks> {
        match texts.len() {
            0 => return Err(BadNetworks::Empty),
            networks if networks > MOST_NETWORKS => return Err(BadNetworks::TooMany { networks }),
            _ => {}
        }
        let networks: Result<_, _> = texts.iter().map(|text| network_of(text.as_ref())).collect();
        networks.map(Self::Of)
    }

    /// Whether connections begin with a header.
    pub(super) fn are_expected(&self) -> bool {
        *self != Self::None
    }

    /// Refuses who is no proxy where only those are let in.
    pub(super) fn check(&self, peer: &Peer) -> Result<(), CloseReason> {
        let (Self::Of(networks), Peer::Ip(address)) = (self, peer) else {
            return Ok(());
        };
        // As the kernel shows an IPv4 client on a socket of IPv6.
        let address = address.ip().to_canonical();
        if networks.iter().any(|network| network.contains(&address)) {
            Ok(())
        } else {
            Err(CloseReason::NoProxy { address })
        }
    }
}

fn network_of(text: &str) -> Result<IpNet, BadNetworks> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    let no_network = |_| BadNetworks::NoNetwork {
        text: text.to_owned(),
    };
    let given: IpNet = text.parse().map_err(no_network)?;
    let network = given.trunc();
    if given == network {
        Ok(network)
    } else {
        let text = text.to_owned();
        Err(BadNetworks::HostBits { text, network })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lets_in(proxies: &Proxies, address: &str) -> bool {
        let peer = Peer::Ip(address.parse().unwrap());
        let checked = proxies.check(&peer);
        if let Err(refused) = &checked {
            assert!(matches!(refused, CloseReason::NoProxy { .. }));
        }
        checked.is_ok()
    }

    #[test]
    fn who_is_in_a_network_is_a_proxy() {
        let proxies = Proxies::of(&["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"]).unwrap();
        for proxy in [
            "10.255.0.1:1",
            "[::ffff:10.0.0.1]:1",
            "192.0.2.7:9",
            "[2001:db8:1::1]:1",
        ] {
            assert!(lets_in(&proxies, proxy), "{proxy}");
        }
        for other in ["11.0.0.1:1", "192.0.2.8:9", "[2001:db9::1]:1", "[::1]:1"] {
            assert!(!lets_in(&proxies, other), "{other}");
            assert!(lets_in(&Proxies::Any, other));
        }
        let everybody = Proxies::of(&["0.0.0.0/0"]).unwrap();
        assert!(lets_in(&everybody, "203.0.113.1:1"));
        assert!(!lets_in(&everybody, "[2001:db8::1]:1"));
    }

    #[test]
    fn what_is_no_network_is_an_error() {
        assert_eq!(Proxies::of(&[""; 0]), Err(BadNetworks::Empty));
        let networks = MOST_NETWORKS + 1;
        let many = vec!["10.0.0.1"; networks];
        assert_eq!(Proxies::of(&many), Err(BadNetworks::TooMany { networks }));
        for text in [
            "",
            "somewhere",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0",
            "::/129",
        ] {
            let text = text.to_owned();
            assert_eq!(
                Proxies::of(&[&text]),
                Err(BadNetworks::NoNetwork { text: text.clone() })
            );
        }
        let unclear = Proxies::of(&["10.0.0.1/8"]).unwrap_err().to_string();
        assert!(unclear.contains("10.0.0.0/8"), "{unclear}");
    }
}
