//! Whom a request is from, where a trusted proxy tells.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use http::header::FORWARDED;

use crate::base::Cidr;
use crate::config::ProxiesTell;
use crate::edge::Peer;

const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// The other end of one connection.
#[derive(Clone)]
pub enum Caller {
    /// Who it is, is known.
    Known(Peer),
    /// It is a proxy, and each request tells.
    Proxy {
        /// The proxy itself.
        peer: Peer,
        /// Everybody who may tell.
        trusted: Arc<[Cidr]>,
        /// In which header.
        tell: ProxiesTell,
    },
}

impl Caller {
    /// Whom a request with these headers is from.
    pub fn of(&self, headers: &HeaderMap) -> Peer {
        match self {
            Self::Known(peer) => peer.clone(),
            Self::Proxy { peer, trusted, tell } => {
                Peer { address: told(headers, *tell, trusted, peer.address), ..peer.clone() }
            }
        }
    }
}

/// Each proxy adds at the end whom it was called by. So what is left of an address that nobody vouches for may be invented: the
/// last one that is no trusted proxy's counts.
fn told(headers: &HeaderMap, tell: ProxiesTell, trusted: &[Cidr], proxy: IpAddr) -> IpAddr {
    let mut best = proxy;
    for hop in hops(headers, tell).into_iter().rev() {
        // What cannot be read was told by the last that could be.
        let Some(address) = hop else { return best };
        best = address;
        if !trusted.iter().any(|block| block.contains(address)) {
            return best;
        }
    }
    best
}

/// Every address in the order of the headers; `None` for what is none.
fn hops(headers: &HeaderMap, tell: ProxiesTell) -> Vec<Option<IpAddr>> {
    let (name, read): (&str, fn(&str) -> Option<IpAddr>) = match tell {
        ProxiesTell::XForwardedFor => (X_FORWARDED_FOR, address),
        ProxiesTell::Forwarded => (FORWARDED.as_str(), forwarded),
        ProxiesTell::ProxyProtocol => return Vec::new(),
    };
    let values = headers.get_all(name).into_iter();
    values
        .flat_map(|value| match value.to_str() {
            Ok(text) => text.split(',').map(|hop| read(hop.trim())).collect(),
            Err(_) => vec![None],
        })
        .collect()
}

/// The `for=` of one element. Source: RFC 7239 section 4. An element with a comma in quotes falls apart and cannot be read.
fn forwarded(element: &str) -> Option<IpAddr> {
    let pairs = element.split(';').filter_map(|pair| pair.trim().split_once('='));
    let mut found = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("for")).map(|(_, value)| value.trim());
    let value = found.next()?;
    address(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
}

/// `10.0.0.1`, `10.0.0.1:80`, `::1`, `[::1]`, `[::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let inner = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None if text.matches(':').count() == 1 => text.split_once(':')?.0,
        None => text,
    };
    inner.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(tell: ProxiesTell, headers: &[(&'static str, &str)]) -> String {
        let map: HeaderMap = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().expect("header text")))
            .fold(HeaderMap::new(), |mut map, (name, value)| {
                map.append(name, value);
                map
            });
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|block| block.parse().expect("a block"));
        told(&map, tell, &trusted, "10.0.0.1".parse().expect("an address")).to_string()
    }

    #[test]
    fn the_last_address_that_nobody_vouches_for_counts() {
        for (header, client) in [
            ("203.0.113.7", "203.0.113.7"),
            ("1.1.1.1, 203.0.113.7, 10.9.9.9", "203.0.113.7"),
            ("203.0.113.7:4711, [fd00::1]:80", "203.0.113.7"),
            ("10.2.2.2, 10.3.3.3", "10.2.2.2"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("2001:db8::1", "2001:db8::1"),
            ("", "10.0.0.1"),
            ("unknown", "10.0.0.1"),
            ("203.0.113.7, <script>, 10.9.9.9", "10.9.9.9"),
            ("203.0.113.7, , ", "10.0.0.1"),
        ] {
            assert_eq!(asked(ProxiesTell::XForwardedFor, &[("x-forwarded-for", header)]), client, "{header}");
        }
        let twice = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2, 10.1.1.1")];
        assert_eq!(asked(ProxiesTell::XForwardedFor, &twice), "2.2.2.2");
        assert_eq!(asked(ProxiesTell::XForwardedFor, &[]), "10.0.0.1");
    }

    #[test]
    fn one_header_alone_is_believed() {
        let both =
            [("x-forwarded-for", "1.1.1.1"), ("forwarded", "proto=https;For=\"[2001:db8::2]:80\";by=x, for=10.1.1.1")];
        assert_eq!(asked(ProxiesTell::XForwardedFor, &both), "1.1.1.1");
        assert_eq!(asked(ProxiesTell::Forwarded, &both), "2001:db8::2");
        assert_eq!(asked(ProxiesTell::ProxyProtocol, &both), "10.0.0.1");
        for hidden in ["for=_hidden", "for=unknown", "by=1.1.1.1", "for=\"a,b\""] {
            assert_eq!(asked(ProxiesTell::Forwarded, &[("forwarded", hidden)]), "10.0.0.1", "{hidden}");
        }
    }
}
