//! A block of addresses: `10.0.0.0/8`, `fd00::/8`, or one address alone.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::Deserialize;

/// All addresses whose first bits are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Cidr {
    first: IpAddr,
    bits: u32,
}

impl Cidr {
    /// True if the address is one of the block's. An IPv4 address that came over IPv6 (`::ffff:10.0.0.1`) counts as what it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(other)) => head4(first, self.bits) == head4(other, self.bits),
            (IpAddr::V6(first), IpAddr::V6(other)) => head6(first, self.bits) == head6(other, self.bits),
            _ => false,
        }
    }
}

fn head4(address: Ipv4Addr, bits: u32) -> u32 {
    u32::from(address).checked_shr(32 - bits).unwrap_or(0)
}

fn head6(address: Ipv6Addr, bits: u32) -> u128 {
    u128::from(address).checked_shr(128 - bits).unwrap_or(0)
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no block of addresses; write for example `10.0.0.0/8` or `fd00::/8`");
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let first: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if first.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |bits| bits.parse().map_err(|_| wrong()))?;
        if bits <= most { Ok(Self { first, bits }) } else { Err(wrong()) }
    }
}

impl TryFrom<String> for Cidr {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_holds_what_begins_as_it_does() {
        for (block, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.1.2.3", "10.1.2.3", "10.1.2.4"),
            ("192.168.4.0/22", "192.168.7.255", "192.168.8.0"),
            ("10.0.0.0/8", "::ffff:10.1.1.1", "::10.1.1.1"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("2001:db8::/64", "2001:db8::ffff", "2001:db8:0:1::"),
            ("::1", "::1", "::2"),
            ("0.0.0.0/0", "8.8.8.8", "::1"),
        ] {
            let block: Cidr = block.parse().expect("is one");
            assert!(block.contains(inside.parse().expect("an address")), "{block} holds {inside}");
            assert!(!block.contains(outside.parse().expect("an address")), "{block} does not hold {outside}");
        }
        for bad in
            ["", "10.0.0.0/33", "10.0.0/8", "fd00::/129", "10.0.0.0/", "10.0.0.0/-1", "localhost", "10.0.0.0/8/8"]
        {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
