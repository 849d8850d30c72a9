//! Integration tests: one binary, real servers.

mod access;
mod client;
mod command_line;
mod compression;
mod contract;
mod faults;
mod hygiene;
mod lanes;
mod load;
mod redis;
mod types;
