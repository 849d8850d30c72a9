//! Sockets in, drained sockets out.

pub mod accept;
pub mod compress;
pub mod drain;
pub mod layers;
pub mod routes;
mod state;

use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::broker::Live;

/// Both listeners, bound.
pub struct Listeners {
    data: TcpListener,
    admin: TcpListener,
}

impl Listeners {
    /// Binds both addresses. Errors: which address could not be bound, and why.
    pub async fn bind(data: SocketAddr, admin: SocketAddr) -> Result<Self, String> {
        Ok(Self { data: bind(data, "server.listen").await?, admin: bind(admin, "server.admin_listen").await? })
    }

    /// The addresses as bound, data first: a configured port 0 has become a real one.
    pub fn addresses(&self) -> std::io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.data.local_addr()?, self.admin.local_addr()?))
    }
}

async fn bind(address: SocketAddr, field: &str) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| format!("cannot listen on {address} ({field}): {error}"))
}

/// Serves until `stop` resolves, then drains: requests in flight finish, new ones are refused, pools are closed.
pub async fn serve(live: Live, listeners: Listeners, stop: impl Future<Output = ()>) {
    let header_timeout = live.now().server.header_timeout;
    let data = layers::Data { live: live.clone(), router: routes::data(&live) };
    let data = accept::Acceptor::start(listeners.data, data, header_timeout);
    let admin = layers::Admin { router: routes::admin(&live) };
    let admin = accept::Acceptor::start(listeners.admin, admin, header_timeout);
    stop.await;
    drain::drain(&live, data, admin).await;
}
