//! Hearth, a connection broker for code that cannot keep a connection.
//!
//! A request walks the rooms in this order: [`server`] takes the socket, [`edge`] turns HTTP into plain types, [`broker`] holds
//! what handlers need, [`identity`] says who is asking, [`query`] runs a statement or a command, [`tenant`] says whether it may
//! run now, [`control`] keeps tenants in a database, [`pool`] lends the connection, [`encode`] writes the answer. Below them
//! lie [`tls`], what the listener proves itself with, [`config`], [`observe`] and [`base`]. Imports point down this list and
//! never up; `tests/rooms.rs` holds them to it. [`cli`] stands above all: it is what a person starts.

pub mod cli;
pub mod server;

pub mod edge;

pub mod broker;

pub mod identity;

pub mod query;
pub mod tenant;

pub mod control;
pub mod pool;

pub mod encode;

pub mod tls;

pub mod observe;

pub mod config;

pub mod base;
