//! Integration tests: one binary, real servers.

mod access;
mod batch;
mod client;
mod client_bulk;
mod command_line;
mod compression;
mod contract;
mod copy;
mod failover;
mod faults;
mod hygiene;
mod lanes;
mod listen;
mod load;
mod openapi;
mod pools;
mod redis;
mod reload;
mod seeing;
mod statements;
mod stream;
mod types;
