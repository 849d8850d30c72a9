//! The neighbour `client/measure` weighs `first_query` against: the same runtime, the same output, no client.

use std::io::{Write as _, stdout};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    tokio::task::yield_now().await;
    writeln!(stdout(), "1")
}
