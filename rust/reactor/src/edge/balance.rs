//! Which loop gets a new connection.

use std::net::IpAddr;

use super::config::Balance;
use crate::listener::Peer;

/// The client that an address stands for: an IPv4 address, or an IPv6 network of 64 bits, which is what one
/// client is given (RFC 6177).
pub(super) fn client_of(peer: &Peer) -> Option<IpAddr> {
    let Peer::Ip(address) = peer else {
        return None;
    };
    Some(match address.ip().to_canonical() {
        IpAddr::V6(ip) => {
            let mut octets = ip.octets();
            octets[8..].fill(0);
            IpAddr::V6(octets.into())
        }
        v4 => v4,
    })
}

/// Chooses one of the loops that have `live` connections each; `turn` counts the choices.
pub(super) fn choose(
    balance: Balance,
    turn: usize,
    peer: &Peer,
    live: impl ExactSizeIterator<Item = usize>,
) -> usize {
    let loops = live.len();
    let next = turn % loops;
    match balance {
        Balance::RoundRobin => next,
        // Of those with equally few the next in turn, or one loop would get all that come at once.
        Balance::LeastConnections => live
            .enumerate()
            .min_by_key(|&(index, live)| (live, (index + loops - next) % loops))
            .map_or(next, |(index, _)| index),
        Balance::SourceHash => client_of(peer).map_or(next, |ip| hash(ip) as usize % loops),
    }
}

/// FNV-1a: stable over restarts, so that a restart changes nothing for whoever looks at loads.
fn hash(ip: IpAddr) -> u32 {
    let fold = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    let hash = match ip {
        IpAddr::V4(ip) => ip.octets().iter().fold(0x811c_9dc5, fold),
        IpAddr::V6(ip) => ip.octets().iter().fold(0x811c_9dc5, fold),
    };
    // Its low bits are the weak ones.
    hash ^ hash >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        Peer::Ip(address.parse().unwrap())
    }

    #[test]
    fn each_way_of_choosing() {
        let any = peer("10.0.0.1:1");
        let round: Vec<_> = (0..4)
            .map(|turn| choose(Balance::RoundRobin, turn, &any, [9, 0, 0].into_iter()))
            .collect();
        assert_eq!(round, [0, 1, 2, 0]);
        let least = |turn, live: [usize; 3]| {
            choose(Balance::LeastConnections, turn, &any, live.into_iter())
        };
        assert_eq!(least(0, [5, 4, 6]), 1);
        assert_eq!(least(2, [4, 4, 4]), 2);
        assert_eq!(least(2, [4, 4, 5]), 0);
        let source = |address: &str, turn| {
            choose(
                Balance::SourceHash,
                turn,
                &peer(address),
                [0; 4].into_iter(),
            )
        };
        assert_eq!(source("10.0.0.1:1", 0), source("10.0.0.1:999", 3));
        assert_eq!(
            source("[2001:db8::1]:1", 0),
            source("[2001:db8::ffff]:2", 1)
        );
        let mut hit = [0; 4];
        for last in 0..200 {
            hit[source(&format!("10.0.0.{last}:1"), 0)] += 1;
        }
        assert!(hit.iter().all(|&count| count > 30), "{hit:?}");
        let unix = Peer::ProxiedUnix;
        assert_eq!(choose(Balance::SourceHash, 3, &unix, [0; 2].into_iter()), 1);
    }

    #[test]
    fn a_client_is_an_address_or_a_network() {
        let v4 = client_of(&peer("[::ffff:10.0.0.1]:1"));
        assert_eq!(v4, client_of(&peer("10.0.0.1:2")));
        let v6 = client_of(&peer("[2001:db8:0:1:2::3]:1"));
        assert_eq!(v6, Some("2001:db8:0:1::".parse().unwrap()));
    }
}
