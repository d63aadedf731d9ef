//! What the monitor has to do with an instance.

use super::owner::{Ended, Owner};
use crate::{
    failpoint::Failpoint,
    failure::{self, check},
};

impl Owner {
    /// Has the machine guarded, where there is a monitor; what it does not guard does not run.
    pub(super) async fn guard(&mut self) -> Result<(), Ended> {
        let Some(monitor) = self.ctx.monitor.clone() else { return Ok(()) };
        // A played machine has nothing that could be guarded.
        let Some(footprint) = self.driver.footprint(&self.id) else { return Ok(()) };
        self.book.pass(Failpoint::Handing);
        let id = self.id.clone();
        let watched = self.during(async move { monitor.watch(id.as_str(), &footprint).await }).await?;
        watched.map_err(|error| self.failed(check::MONITOR_WATCH, &error))?;
        self.book.pass(Failpoint::Guarded);
        Ok(())
    }

    /// Goes on with a machine that an earlier agent started.
    pub(super) async fn adopt(&mut self) -> Ended {
        match self.guard().await {
            Ok(()) => self.serve().await,
            Err(ended) => ended,
        }
    }

    /// Where the monitor has ended the instances, that is why this one ended.
    pub(super) async fn explained(&self, ended: Ended) -> Ended {
        let (Ended::Failed(_), Some(monitor)) = (&ended, &self.ctx.monitor) else { return ended };
        match monitor.ended().await {
            Some(because) => {
                let detail = format!("the node's monitor ended all instances: {because}");
                Ended::Failed(failure::at(self.book.attempting(), check::MONITOR_ENDED, detail))
            }
            None => ended,
        }
    }
}
