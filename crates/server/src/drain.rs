//! The one flag of a graceful end.

use tokio::sync::watch;

/// Waits until the server drains; also when nobody is left who could say so.
pub(crate) async fn drained(draining: &mut watch::Receiver<bool>) {
    let _ = draining.wait_for(|draining| *draining).await;
}
