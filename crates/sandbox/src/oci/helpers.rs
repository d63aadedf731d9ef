//! Helpers of instances that are prepared: they have mounted what a keeper needs, and wait for the start.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use casemate_lifecycle::InstanceId;

use crate::jail::Helper;

/// One of each instance. They end with this, and by themselves with this process.
#[derive(Debug, Default)]
pub(super) struct Helpers(Mutex<HashMap<InstanceId, Helper>>);

impl Helpers {
    /// For a start that comes later.
    pub(super) fn keep(&self, id: &InstanceId, helper: Helper) {
        let old = self.all().insert(id.clone(), helper);
        drop(old);
    }

    /// The instance's, if it has one.
    pub(super) fn take(&self, id: &InstanceId) -> Option<Helper> {
        self.all().remove(id)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<InstanceId, Helper>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
