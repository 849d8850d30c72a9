//! One way through the proxy.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;

use super::Fault;

const BUFFER: usize = 64 * 1024;

/// Passes bytes on as the fault of the moment allows; `turns` are counted on the way to the server. Returns at the end of either
/// side, and has told the other that no more comes.
pub(super) async fn pass(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut fault: watch::Receiver<Fault>,
    asking: &AtomicBool,
    turns: Option<&AtomicU64>,
) {
    let mut buffer = vec![0; BUFFER];
    loop {
        calm(&mut fault).await;
        let Ok(read) = from.read(&mut buffer).await else { break };
        let was_asking = asking.swap(turns.is_some(), Ordering::SeqCst);
        if let Some(turns) = turns
            && !was_asking
        {
            turns.fetch_add(1, Ordering::SeqCst);
        }
        if read == 0 || !deliver(&buffer[..read], &mut to, &mut fault).await {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// Waits while nothing passes.
async fn calm(fault: &mut watch::Receiver<Fault>) {
    // The sender is the link's, which outlives its pipes.
    let _ = fault.wait_for(|fault| *fault != Fault::Stall).await;
}

/// Writes all of it, however the faults change meanwhile. False: the other side takes no more.
async fn deliver(mut bytes: &[u8], to: &mut WriteHalf<'_>, fault: &mut watch::Receiver<Fault>) -> bool {
    while !bytes.is_empty() {
        calm(fault).await;
        let now = *fault.borrow_and_update();
        let (piece, pause) = match now {
            Fault::Trickle { bytes: few, pause } => (few.clamp(1, bytes.len()), Some(pause)),
            Fault::None | Fault::Stall => (bytes.len(), None),
        };
        if to.write_all(&bytes[..piece]).await.is_err() {
            return false;
        }
        bytes = &bytes[piece..];
        if let Some(pause) = pause {
            // A fault that ends, ends at once.
            let _ = tokio::time::timeout(pause, fault.changed()).await;
        }
    }
    true
}
