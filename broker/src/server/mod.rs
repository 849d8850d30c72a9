//! Sockets in, drained sockets out.

pub mod accept;
mod answer;
mod asked;
mod certificates;
pub mod compress;
mod connection;
pub mod drain;
mod frequent;
mod gate;
pub mod layers;
mod operators;
mod proxies;
mod proxy_protocol;
pub mod routes;
mod socket;
mod speak;
mod state;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use self::accept::{Acceptor, Kind};
use crate::base::Workers;
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
///
/// Callers are served by `workers`; operators by the runtime that this runs on, so that they are heard while callers keep every
/// worker busy.
pub async fn serve(live: Live, listeners: Listeners, workers: Workers, stop: impl Future<Output = ()>) {
    // Until the pools are closed: what they still do for requests is done there.
    let workers = Arc::new(workers);
    let data = layers::Data { live: live.clone(), router: routes::data(&live) };
    let data = Acceptor::start(Kind::Data, listeners.data, data, live.clone(), Arc::clone(&workers));
    let admin = layers::Admin { router: routes::admin(&live, &workers) };
    let admin = Acceptor::start(Kind::Admin, listeners.admin, admin, live.clone(), Arc::new(Workers::none()));
    tokio::select! {
        () = stop => {}
        () = certificates::follow(live.clone()) => {}
    }
    drain::drain(&live, data, admin).await;
}
