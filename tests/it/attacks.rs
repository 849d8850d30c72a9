//! Attacks on the listener, each with the answer it must get, what it costs in memory, and what a neighbour feels meanwhile.

mod floods;
mod heads;
mod slow;

use std::time::Duration;

use hearth_broker::cli::dev::scratch::Scratch;
use hearth_tests::Bare;
use tokio::net::{TcpSocket, TcpStream};

/// A neighbour must not notice an attack for longer than this, on a machine that is busy with other things.
const NOTICED: Duration = Duration::from_secs(2);

/// A broker with this in its `[server]` section.
async fn broker(server: &str) -> (Scratch, Bare) {
    let scratch = Scratch::new("hearth-attack").expect("a scratch folder");
    let bare = Bare::start(&scratch, "broker", server).await;
    (scratch, bare)
}

/// Runs the attack beside a neighbour, and tells what it has cost.
#[expect(clippy::print_stdout, reason = "what an attack costs is a part of the test's result")]
async fn beside<T>(bare: &Bare, name: &str, attack: impl Future<Output = T>) -> T {
    let (before, mut result) = (bare.resident(), None);
    let took = bare.neighbour(async { result = Some(attack.await) }).await;
    let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
    println!(
        "{name}: memory {before:.0} → {:.0} MiB; a neighbour's {} calls: median {median:.2?}, worst {worst:.2?}",
        bare.resident(),
        took.len()
    );
    assert!(median < NOTICED, "{name}: a neighbour waits {median:?}");
    result.expect("the attack is over")
}

/// Connects from one of the loopback addresses: `127.0.x.y`.
async fn dial_from(bare: &Bare, source: u16) -> std::io::Result<TcpStream> {
    let [high, low] = source.to_be_bytes();
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(([127, 0, high, low], 0).into())?;
    socket.connect(bare.address).await
}
