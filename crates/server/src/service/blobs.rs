//! Blobs: tenants upload, nodes fetch what their assignments name.

use std::io::SeekFrom;

use bytes::Bytes;
use casemate_api::workload::Workload;
use casemate_lifecycle::NodeId;
use futures::Stream;
use tokio::{fs::File, io::AsyncSeekExt as _};

use super::{Caller, Service};
use crate::{
    blobs::{BlobDigest, Put},
    fault::Fault,
};

impl Service {
    /// The size of a blob.
    pub async fn blob_size(&self, _caller: &Caller, digest: &str) -> Result<u64, Fault> {
        let size = self.0.parts.blobs.size(digest.parse()?).await;
        size.ok_or_else(|| Fault::NotFound { what: "blob", id: digest.to_owned() })
    }

    /// Stores a blob.
    pub async fn put_blob<E>(
        &self,
        _caller: &Caller,
        digest: &str,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<Put, Fault>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.0.parts.blobs.put(digest.parse()?, body).await
    }

    /// A blob for a node, without the first `from` bytes: only one that an instance on this node names.
    pub async fn fetch_blob(&self, node: &NodeId, digest: &str, from: u64) -> Result<File, Fault> {
        let parsed: BlobDigest = digest.parse()?;
        let unknown = || Fault::NotFound { what: "blob", id: digest.to_owned() };
        let instances = self.store().instances_of_node(node).await?;
        let named = instances.iter().any(|instance| {
            Workload::from_canonical(instance.workload.as_bytes())
                .is_ok_and(|workload| names(&workload).any(|name| name == digest))
        });
        if !named {
            return Err(unknown());
        }
        let (file, size) = self.0.parts.blobs.read(parsed).await?.ok_or_else(unknown)?;
        if from > size {
            let detail = format!("the blob has {size} bytes, {from} are said to be there already");
            return Err(Fault::Invalid { what: "from", detail, hint: "fetch the blob from its beginning" });
        }
        begin_at(file, from).await
    }

    /// The blobs of a workload that must be uploaded but are not there.
    pub(super) async fn missing_blobs(&self, workload: &Workload) -> Result<Vec<String>, Fault> {
        let layers = workload.image.layers.iter().map(|layer| layer.blob.as_str());
        // With a source, the node pulls the layers from the registry.
        let layers = layers.filter(|_| workload.image.source.is_empty());
        let needed: Vec<&str> = layers.chain(workload.assets.iter().map(|asset| asset.digest.as_str())).collect();
        self.0.parts.blobs.missing(&needed).await
    }
}

async fn begin_at(mut file: File, from: u64) -> Result<File, Fault> {
    let moved = file.seek(SeekFrom::Start(from)).await;
    moved.map(|_| file).map_err(|error| Fault::internal("skip what a node has of a blob")(error.into()))
}

fn names(workload: &Workload) -> impl Iterator<Item = &str> {
    let layers = workload.image.layers.iter().map(|layer| layer.blob.as_str());
    layers.chain(workload.assets.iter().map(|asset| asset.digest.as_str()))
}
