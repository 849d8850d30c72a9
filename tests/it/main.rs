//! Integration tests: one binary, real servers.

mod access;
mod client;
mod command_line;
mod contract;
mod faults;
mod hygiene;
mod lanes;
mod listen;
mod load;
mod redis;
mod types;
