//! What this machine has: server programs, an account to run them as, free ports, and sending signals.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::base::hex::hex;

/// An account to run servers as: PostgreSQL refuses to run as root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// The account to switch to: none unless files made by this process belong to root; then `postgres`, else `nobody`.
///
/// `made` is a folder that this process has just made. Errors: root, and neither account exists.
pub fn account(made: &Path) -> io::Result<Option<Account>> {
    if std::fs::metadata(made)?.uid() != 0 {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd")?;
    let found = ["postgres", "nobody"].iter().find_map(|name| users.lines().find_map(|line| entry(line, name)));
    let missing =
        || io::Error::other("run as root, but there is no account `postgres` or `nobody` to run PostgreSQL as");
    found.map(Some).ok_or_else(missing)
}

/// One line of `/etc/passwd`: `name:x:uid:gid:…`.
fn entry(line: &str, name: &str) -> Option<Account> {
    let mut fields = line.split(':');
    if fields.next()? != name {
        return None;
    }
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    (uid != 0).then_some(Account { uid, gid })
}

/// Finds a server program: on `PATH`, then where Debian, Homebrew and the PostgreSQL packages put it.
pub fn program(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    on_path.or_else(|| off_path(name)).ok_or_else(|| {
        format!(
            "`{name}` was not found on this machine; on Debian or Ubuntu: apt-get install postgresql redis-server; \
             on macOS: brew install postgresql redis"
        )
    })
}

fn off_path(name: &str) -> Option<PathBuf> {
    let versioned = ["/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt", "/usr"];
    let mut folders: Vec<PathBuf> = versioned
        .iter()
        .filter_map(|parent| std::fs::read_dir(parent).ok())
        .flat_map(|entries| entries.flatten().map(|entry| entry.path().join("bin")))
        .collect();
    // The newest version first: `…/17/bin` before `…/15/bin`.
    folders.sort_by_key(|folder| std::cmp::Reverse(version(folder)));
    folders.extend(["/opt/homebrew/bin", "/usr/local/bin", "/usr/local/sbin", "/usr/sbin"].map(PathBuf::from));
    folders.into_iter().map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn version(folder: &Path) -> u32 {
    let digits: String = folder.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

/// A loopback port that is free now. Nobody else who asks here is given it while this process lives, though a server listens on
/// it only some tenths of a second later: the UDP port of the same number is held as the sign of it.
pub fn free_port() -> io::Result<u16> {
    const TRIES: usize = 100;
    for _ in 0..TRIES {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        if let Ok(sign) = UdpSocket::bind(("127.0.0.1", port)) {
            // Held to the end of the process, and not by what it starts.
            let _ = sign.into_raw_fd();
            return Ok(port);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "every loopback port that was tried is somebody's"))
}

/// Sends a signal, by name, to a process that this one has started.
pub fn signal(pid: u32, name: &str) {
    // The process may have ended by itself; then there is nobody to signal.
    let _ = Command::new("sh").args(["-c", "kill -\"$1\" \"$2\" 2>/dev/null", "sh", name, &pid.to_string()]).status();
}

/// A random word for names and passwords: 96 bits in hexadecimal.
pub fn random_word() -> String {
    let bytes: [u8; 12] = rand::random();
    hex(&bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn nobody_is_given_a_port_twice() {
        let ports: Vec<u16> = (0..200).map(|_| free_port().expect("a port")).collect();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), ports.len());
        for port in ports {
            TcpListener::bind(("127.0.0.1", port)).expect("a server may listen there");
        }
    }
}
