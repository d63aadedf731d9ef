//! OCI images to read-only layers protected by dm-verity, with digests that anyone can recompute.
//!
//! ```text
//! Source --open--> Blobs --inspect--> ImageInfo       registry, OCI layout folder, OCI archive; every blob checked by digest
//!                    \---fetch----> Cache blobs/      streamed, size and digest checked, renamed into place
//! Cache::convert_layer: blob --> tar --> tree --> EROFS image --> dm-verity tree --> layers/<hex>/layer.img
//! ```
//!
//! **The promise**: the root hash of a converted layer is a function of the layer's tar stream and of nothing else: not of
//! the host, the time, the user, the order of a directory, the compression of the blob or an installed tool. The tenant
//! computes it, the workload names it, the node must arrive at the same one. Changing any byte of what is written here is
//! therefore a change of format: [`cache::FORMAT`] goes up with it, and the golden test says so.
//!
//! An encrypted layer is the EROFS image of one, encrypted by its owner; its root hash is a function of the ciphertext.
//!
//! **How a layer is read.** As containerd does, with the refusals where containerd would have to guess:
//! * An absolute name is taken as relative to the layer's root; `.` and empty parts are dropped; a `..` part is refused.
//! * An entry's parent that is not a folder (a symbolic link, too) is refused: nothing is written *through* a link.
//! * A parent that the layer does not name is made as `0755 root:root`, modification time 0.
//! * A hard link must name an earlier entry of the same layer that is not a folder (also when its target is absolute).
//! * Of two entries with one name the last wins; a folder named twice keeps its content and takes the later metadata.
//! * `.wh.NAME` hides NAME of lower layers: a character device 0/0, unless the layer itself has NAME (a folder then becomes
//!   opaque). `.wh..wh..opq` makes its folder opaque (`trusted.overlay.opaque=y`). Other `.wh..wh.*` entries are left out.
//! * Extended attributes `user.*`, `trusted.*`, `security.*` and POSIX ACLs are kept, `trusted.overlay.*` is refused (it would
//!   rearrange layers), others cannot exist on Linux and are left out. Modification times are kept, other times dropped.
//! * GNU and PAX long names and sparse files are understood. Sockets cannot be in a tar archive.
//!
//! **What it never does**: run anything of the image, create a file named by the image, keep file content in memory, or
//! trust a size or a name. Memory: about 300 bytes per entry plus names and attributes (at most
//! [`Limits::metadata_bytes`]), plus at most 6 MiB of buffers; zstd blobs add their window (at most 128 MiB). The size of a layer
//! or of its files adds nothing.
#![forbid(unsafe_code)]

pub mod cache;
pub mod decoders;
mod digest;
mod error;
mod layer;
mod limits;
mod source;
mod tar;

pub use cache::{Cache, Collected, ConvertedLayer, Hold, Pack, Progress, Stage};
pub use digest::Digest;
pub use error::{ImageError, LayerError};
pub use layer::encrypted::ENCRYPTED_TYPE;
pub use limits::Limits;
pub use oci_client::Reference;
pub use source::{Access, BlobInfo, Blobs, ImageConfig, ImageInfo, LayoutWriter, Mirror, Source, inspect};
