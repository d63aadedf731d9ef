//! Notices.

use casemate_api::rest::{Notice, Notices};

use super::{Client, segment};

impl Client {
    /// The newest ones before this number, of one instance or all.
    pub(crate) async fn notices(&self, instance: Option<&str>, before: Option<u64>, limit: u32) -> anyhow::Result<Notices> {
        let instance = instance.map(segment).transpose()?.map(|id| format!("&instance={id}")).unwrap_or_default();
        let before = before.map(|before| format!("&before={before}")).unwrap_or_default();
        self.get(&format!("/notices?limit={limit}{instance}{before}")).await
    }

    pub(crate) async fn notice(&self, id: &str) -> anyhow::Result<Notice> {
        self.get(&format!("/notices/{}", segment(id)?)).await
    }
}
