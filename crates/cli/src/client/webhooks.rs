//! Webhooks.

use casemate_api::rest::{Deliveries, MadeWebhook, NewWebhook, Queued, Webhooks};
use reqwest::Method;

use super::{Client, segment};

impl Client {
    pub(crate) async fn webhooks(&self) -> anyhow::Result<Webhooks> {
        self.get("/webhooks").await
    }

    pub(crate) async fn make_webhook(&self, new: &NewWebhook) -> anyhow::Result<MadeWebhook> {
        self.make("/webhooks", new, "make the webhook").await
    }

    pub(crate) async fn remove_webhook(&self, id: &str) -> anyhow::Result<()> {
        let request = self.request(Method::DELETE, &format!("/webhooks/{}", segment(id)?));
        self.once(request, "remove the webhook").await.map(drop)
    }

    pub(crate) async fn test_webhook(&self, id: &str) -> anyhow::Result<Queued> {
        let path = format!("/webhooks/{}/test", segment(id)?);
        self.make(&path, &serde_json::json!({}), "have the webhook called").await
    }

    pub(crate) async fn deliveries(&self, id: &str) -> anyhow::Result<Deliveries> {
        self.get(&format!("/webhooks/{}/deliveries", segment(id)?)).await
    }
}
