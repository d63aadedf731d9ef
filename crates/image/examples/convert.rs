//! Converts layer blobs and prints their root hashes: `convert CACHE_DIR BLOB...`. Anyone can check a workload's hashes so.

use std::{fs::File, time::Instant};

use casemate_image::{Cache, Digest};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let cache = Cache::open(arguments.next().ok_or("usage: convert CACHE_DIR BLOB...")?)?;
    for path in arguments {
        let digest = Digest::of_reader(File::open(&path)?)?;
        cache.add_blob_from_reader(&digest, None, File::open(&path)?)?;
        let start = Instant::now();
        let layer = cache.convert_layer(&digest, "")?;
        let seconds = start.elapsed().as_secs_f64();
        let root: String = layer.root_hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let rate = layer.size_bytes as f64 / 1e6 / seconds;
        println!("{digest} root {root} blocks {} in {seconds:.2} s, {rate:.0} MB/s of image", layer.data_blocks);
    }
    Ok(())
}
