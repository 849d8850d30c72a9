//! The PROXY protocol, versions 1 and 2: what a proxy says of the client before anything of the client's.
//!
//! Source: `HAProxy`, "The PROXY protocol", sections 2.1 and 2.2.

use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncRead, AsyncReadExt};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, with its end.
const MAX_LINE: usize = 107;
/// More than any balancer adds to the addresses. Unit: bytes.
const MAX_BLOCK: usize = 4096;
/// Of version 2: the proxy speaks for itself, as health checks do.
const LOCAL: u8 = 0x20;
/// Of version 2: it speaks for a client.
const PROXY: u8 = 0x21;

/// Reads the header and nothing after it. `None`: the proxy speaks for itself, or does not know for whom.
pub async fn read(socket: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<IpAddr>> {
    // Both versions are at least this long.
    let mut start = [0; SIGNATURE.len()];
    socket.read_exact(&mut start).await?;
    if start == SIGNATURE { binary(socket).await } else { line(socket, &start).await }
}

async fn binary(socket: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<IpAddr>> {
    let mut head = [0; 4];
    socket.read_exact(&mut head).await?;
    let [command, family, high, low] = head;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_BLOCK {
        return Err(wrong("is too long"));
    }
    let mut block = vec![0; length];
    socket.read_exact(&mut block).await?;
    match (command, family >> 4) {
        (LOCAL, _) | (PROXY, 0 | 3) => Ok(None),
        (PROXY, 1) => Ok(Some(IpAddr::from(*block.first_chunk::<4>().ok_or_else(|| wrong("ends early"))?))),
        (PROXY, 2) => Ok(Some(IpAddr::from(*block.first_chunk::<16>().ok_or_else(|| wrong("ends early"))?))),
        _ => Err(wrong("has an unknown command or family")),
    }
    .map(|address: Option<IpAddr>| address.map(|address| address.to_canonical()))
}

/// Byte by byte: what follows is the client's.
async fn line(socket: &mut (impl AsyncRead + Unpin), start: &[u8]) -> io::Result<Option<IpAddr>> {
    let mut line = start.to_vec();
    // Not worth waiting for the rest of what began otherwise.
    if !line.starts_with(b"PROXY ") {
        return Err(wrong("is missing"));
    }
    while !line.ends_with(b"\r\n") {
        if line.len() == MAX_LINE {
            return Err(wrong("is too long"));
        }
        line.push(socket.read_u8().await?);
    }
    let text = std::str::from_utf8(&line[..line.len() - 2]).map_err(|_| wrong("is not text"))?;
    let words: Vec<&str> = text.split(' ').collect();
    match words[..] {
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        ["PROXY", family @ ("TCP4" | "TCP6"), from, to, from_port, to_port] => {
            let is_right = |address: &IpAddr| address.is_ipv4() == (family == "TCP4");
            let addresses = [from, to].map(|text| text.parse().ok().filter(is_right));
            let ports = [from_port, to_port].map(|text| text.parse::<u16>().ok());
            match (addresses, ports) {
                ([Some(from), Some(_)], [Some(_), Some(_)]) => Ok(Some(from.to_canonical())),
                _ => Err(wrong("has no readable addresses")),
            }
        }
        _ => Err(wrong("has an unknown family")),
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the header of the PROXY protocol {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(bytes: &[u8]) -> (Option<Option<IpAddr>>, Vec<u8>) {
        let mut left = bytes;
        let read = read(&mut left).await.ok();
        (read, left.to_vec())
    }

    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).expect("is short").to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, block].concat()
    }

    #[tokio::test]
    async fn both_versions_tell_the_client_and_leave_its_bytes() {
        let four = [[203, 0, 113, 7].as_slice(), &[10, 0, 0, 1, 1, 2, 3, 4]].concat();
        let six = [[0x20; 16].as_slice(), &[0; 20], b"more TLVs"].concat();
        for (header, client) in [
            (b"PROXY TCP4 203.0.113.7 10.0.0.1 1 2\r\n".to_vec(), Some("203.0.113.7")),
            (b"PROXY TCP6 2001:db8::1 ::1 65535 2\r\n".to_vec(), Some("2001:db8::1")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN anything at all\r\n".to_vec(), None),
            (v2(PROXY, 0x11, &four), Some("203.0.113.7")),
            (v2(PROXY, 0x21, &six), Some("2020:2020:2020:2020:2020:2020:2020:2020")),
            (v2(LOCAL, 0x11, &four), None),
            (v2(PROXY, 0x00, b""), None),
        ] {
            let (read, left) = all(&[&header[..], b"GET / HTTP/1.1\r\n"].concat()).await;
            assert_eq!(read, Some(client.map(|client| client.parse().expect("an address"))));
            assert_eq!(left, b"GET / HTTP/1.1\r\n");
            for end in 0..header.len() {
                assert_eq!(all(&header[..end]).await.0, None, "cut after {end}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        for bad in [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec(),
            b"PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n".to_vec(),
            b"PROXY TCP4 1.1.1.1 2.2.2.2  1 2\r\n".to_vec(),
            b"PROXY TCP4 1.1.1.1\n2.2.2.2 1 2\r\n".to_vec(),
            [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat(),
            v2(0x31, 0x11, &[0; 12]),
            v2(PROXY, 0x41, &[0; 12]),
            v2(PROXY, 0x11, &[0; 3]),
            v2(PROXY, 0x11, &[0; 5000]),
        ] {
            assert_eq!(all(&bad).await.0, None, "{}", String::from_utf8_lossy(&bad));
        }
    }
}
