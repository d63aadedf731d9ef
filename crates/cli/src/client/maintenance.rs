//! Maintenance of nodes.

use casemate_api::rest::{NewMaintenance, NodeMaintenance};
use reqwest::Method;

use super::{Client, segment, send};

impl Client {
    /// A repetition after a lost answer is told that it has begun.
    pub(crate) async fn begin_maintenance(&self, node: &str, new: &NewMaintenance) -> anyhow::Result<()> {
        let request = self.request(Method::POST, &format!("/nodes/{}/maintenance", segment(node)?)).json(new);
        send(request, "begin the maintenance of the node").await.map(drop)
    }

    /// Once more is one more try.
    pub(crate) async fn end_maintenance(&self, node: &str) -> anyhow::Result<()> {
        let request = self.request(Method::POST, &format!("/nodes/{}/maintenance/end", segment(node)?));
        send(request, "end the maintenance of the node").await.map(drop)
    }

    pub(crate) async fn maintenance(&self, node: &str) -> anyhow::Result<NodeMaintenance> {
        self.get(&format!("/nodes/{}/maintenance", segment(node)?)).await
    }
}
