//! The wire: the canonical workload, the guest channel, node gRPC and REST types.
//!
//! Evidence, sealed keys and records travel as opaque bytes. Features: `node` (gRPC, tonic), `rest` (OpenAPI schemas).

#![forbid(unsafe_code)]

pub mod assignment;
pub mod canonical;
pub mod receipt;
#[cfg(feature = "rest")]
pub mod rest;
pub mod score;
pub mod workload;

/// Host to guest; see `proto/guest.proto`.
#[allow(missing_docs, clippy::all, clippy::too_many_lines, reason = "generated code")]
pub mod guest {
    include!(concat!(env!("OUT_DIR"), "/casemate.guest.v1.rs"));

    /// First bytes of a channel session, before 16 random ones.
    pub const PREAMBLE: &[u8; 8] = b"CASEMATE";
    /// Largest framed message, in bytes.
    pub const MAX_MESSAGE: usize = 4 << 20;
    /// Name of the virtio-serial port.
    pub const PORT: &str = "casemate.guest";
}

/// Platform and node; see `proto/node.proto`.
#[cfg(feature = "node")]
#[allow(missing_docs, clippy::all, clippy::too_many_lines, reason = "generated code")]
pub mod node {
    include!(concat!(env!("OUT_DIR"), "/casemate.node.v1.rs"));

    /// Largest gRPC message, in bytes.
    pub const MAX_MESSAGE: usize = 8 << 20;
    /// Longest part of a list of files in one message, in bytes.
    pub const MAX_IMA_LIST: usize = 6 << 20;
    /// Longest event log in one message, in bytes.
    pub const MAX_EVENT_LOG: usize = 512 << 10;
    /// Size of a blob chunk, in bytes.
    pub const BLOB_CHUNK: usize = 256 << 10;
    /// Object identifier of the node certificate's extension with the AK's TPM name.
    pub const AK_NAME_OID: &[u64] = &[1, 3, 6, 1, 4, 1, 59999, 1, 1];
    /// Object identifier of the extension with the SHA-256 of the EK certificate (32 bytes, OCTET STRING).
    pub const EK_CERTIFICATE_OID: &[u64] = &[1, 3, 6, 1, 4, 1, 59999, 1, 3];
    /// Object identifier of the extension with the node's Ed25519 receipt key (32 bytes, OCTET STRING).
    pub const RECEIPT_KEY_OID: &[u64] = &[1, 3, 6, 1, 4, 1, 59999, 1, 2];
}
