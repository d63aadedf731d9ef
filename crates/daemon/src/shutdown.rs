//! One signal, one flag.

use tokio::{
    signal::unix::{SignalKind, signal as unix_signal},
    sync::watch,
};

/// Becomes `true` at SIGTERM or SIGINT. Spawns the one task that waits for them; call it once, inside the runtime.
///
/// # Panics
/// When the signal handlers cannot be installed, which happens only outside a runtime with I/O enabled.
pub fn signal() -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    let mut term = unix_signal(SignalKind::terminate()).expect("the runtime has I/O enabled");
    let mut int = unix_signal(SignalKind::interrupt()).expect("the runtime has I/O enabled");
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        sender.send_replace(true);
    });
    receiver
}
