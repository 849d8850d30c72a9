//! A server that ends says so; a network that is cut says nothing. The kernel finds that out: it asks the other kernel on quiet
//! sockets, without a round trip to the database, and gives up what is not acknowledged. A look at the socket before a session is
//! lent then shows the error. What stands between and answers in the server's place is found by the sign of life (`upkeep`).

use std::io;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;

/// A socket that was quiet for so long is asked.
const QUIET: Duration = Duration::from_secs(10);
/// And asked again so often.
const AGAIN: Duration = Duration::from_secs(5);
const TIMES: u32 = 3;
#[cfg(target_os = "linux")]
/// What was sent and is not acknowledged for so long, questions included, ends the socket. A switch or a route that fails over takes
/// less.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// Sees to it that silence on the socket is noticed.
pub fn is_noticed(socket: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, QUIET)?;
    sockopt::set_tcp_keepintvl(socket, AGAIN)?;
    sockopt::set_tcp_keepcnt(socket, TIMES)?;
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(socket, u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_is_told() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let socket = TcpStream::connect(listener.local_addr().expect("is bound")).await.expect("connects");
        is_noticed(&socket).expect("the system knows all of them");
        assert_eq!(sockopt::socket_keepalive(&socket), Ok(true));
        assert_eq!(sockopt::tcp_keepidle(&socket), Ok(QUIET));
        assert_eq!((sockopt::tcp_keepintvl(&socket), sockopt::tcp_keepcnt(&socket)), (Ok(AGAIN), Ok(TIMES)));
        #[cfg(target_os = "linux")]
        assert_eq!(sockopt::tcp_user_timeout(&socket), Ok(20_000));
    }
}
