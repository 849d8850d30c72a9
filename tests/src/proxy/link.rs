//! One connection through the proxy.

use std::sync::atomic::{AtomicBool, AtomicU64};

use tokio::net::TcpStream;
use tokio::sync::watch;

use super::pipe::pass;
use super::{End, Fault, Side, Way};

/// One connection, and what befalls it.
#[derive(Debug)]
pub struct Link {
    faults: [watch::Sender<Fault>; 2],
    fate: watch::Sender<Fate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Lives,
    Ended(Side, End),
    Forgotten,
}

impl Link {
    pub(super) fn new(faults: [Fault; 2]) -> Self {
        Self { faults: faults.map(watch::Sender::new), fate: watch::Sender::new(Fate::Lives) }
    }

    /// From now on this befalls what goes this way.
    pub fn set(&self, way: Way, fault: Fault) {
        self.faults[way as usize].send_replace(fault);
    }

    /// Ends it; false if it has ended before.
    pub fn end(&self, side: Side, end: End) -> bool {
        self.fate.send_if_modified(|fate| {
            let lives = *fate == Fate::Lives;
            if lives {
                *fate = Fate::Ended(side, end);
            }
            lives
        })
    }

    /// Closes the side that [`Link::end`] left open.
    pub fn forget(&self) {
        self.fate.send_if_modified(|fate| {
            let ended = matches!(fate, Fate::Ended(..));
            if ended {
                *fate = Fate::Forgotten;
            }
            ended
        });
    }
}

/// Passes bytes both ways until both have ended by themselves, or the link is ended.
pub(super) async fn serve(link: &Link, mut near: TcpStream, mut far: TcpStream, turns: &AtomicU64) {
    let mut fate = link.fate.subscribe();
    let ended = {
        let ((from_near, to_near), (from_far, to_far)) = (near.split(), far.split());
        let [to_server, to_broker] = [0, 1].map(|way| link.faults[way].subscribe());
        let asking = AtomicBool::new(false);
        let both = async {
            tokio::join!(
                pass(from_near, to_far, to_server, &asking, Some(turns)),
                pass(from_far, to_near, to_broker, &asking, None)
            );
        };
        tokio::select! {
            () = both => None,
            Ok(fate) = fate.wait_for(|fate| *fate != Fate::Lives) => Some(*fate),
        }
    };
    let Some(Fate::Ended(side, end)) = ended else { return };
    let finish = |socket: TcpStream| match end {
        End::Close => drop(socket),
        End::Reset => reset(socket),
    };
    let _left_open = match side {
        Side::Both => {
            finish(near);
            finish(far);
            return;
        }
        Side::Broker => {
            finish(near);
            far
        }
        Side::Server => {
            finish(far);
            near
        }
    };
    // The link's own sender outlives this.
    let _ = fate.wait_for(|fate| *fate == Fate::Forgotten).await;
}

/// Closes a socket with a reset in place of the end of its stream.
pub(super) fn reset(socket: TcpStream) {
    // A socket that its other side has reset already has nothing left to set.
    let _ = socket.set_zero_linger();
    drop(socket);
}
