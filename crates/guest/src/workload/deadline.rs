//! When a running workload is asked to end, and when it is killed.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    Terminate,
    Kill,
}

/// The two times. Both only ever come nearer.
#[derive(Debug)]
pub(crate) struct Deadlines {
    terminate: Option<Instant>,
    kill: Option<Instant>,
}

impl Deadlines {
    /// The workload's time to live.
    pub(crate) fn after(ttl: Duration) -> Self {
        Self { terminate: Some(Instant::now() + ttl), kill: None }
    }

    /// Somebody wants it ended: `SIGTERM` is due now, `SIGKILL` after `grace`.
    pub(crate) fn stop(&mut self, grace: Duration) {
        let now = Instant::now();
        if self.kill.is_none() {
            self.terminate = Some(now);
        }
        let kill = now + grace.min(MAX_GRACE);
        self.kill = Some(self.kill.map_or(kill, |earlier| earlier.min(kill)));
    }

    /// Waits for the next step. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Due {
        match (self.terminate, self.kill) {
            (Some(at), kill) => {
                sleep_until(at).await;
                self.terminate = None;
                self.kill = kill.or(Some(at + TTL_GRACE));
                Due::Terminate
            }
            (None, Some(at)) => {
                sleep_until(at).await;
                // Once more later, should the kill have missed a process.
                self.kill = Some(at + KILL_AGAIN);
                Due::Kill
            }
            (None, None) => std::future::pending().await,
        }
    }
}

/// Between the end of the time to live and the kill.
const TTL_GRACE: Duration = Duration::from_secs(10);
const MAX_GRACE: Duration = Duration::from_secs(600);
const KILL_AGAIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(test);
    }

    #[test]
    fn ends_at_the_time_to_live_with_a_grace() {
        run(async {
            let start = Instant::now();
            let mut deadlines = Deadlines::after(Duration::from_secs(60));
            assert_eq!((deadlines.next().await, start.elapsed().as_secs()), (Due::Terminate, 60));
            assert_eq!((deadlines.next().await, start.elapsed().as_secs()), (Due::Kill, 70));
            assert_eq!((deadlines.next().await, start.elapsed().as_secs()), (Due::Kill, 71));
        });
    }

    #[test]
    fn a_stop_terminates_at_once_and_a_second_one_only_shortens_the_grace() {
        run(async {
            let start = Instant::now();
            let mut deadlines = Deadlines::after(Duration::from_secs(3600));
            deadlines.stop(Duration::from_secs(30));
            assert_eq!((deadlines.next().await, start.elapsed().as_secs()), (Due::Terminate, 0));
            deadlines.stop(Duration::from_secs(100));
            deadlines.stop(Duration::from_secs(5));
            assert_eq!((deadlines.next().await, start.elapsed().as_secs()), (Due::Kill, 5));
        });
    }
}
