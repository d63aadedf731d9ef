//! Conversion of a layer beside `mkfs.erofs` and `veritysetup format` on the unpacked tree, in the same run, and its peak memory:
//! `cargo bench -p casemate-image --bench convert [-- FOLDER]`. The folder takes some gigabytes; the default is the system's for
//! temporary files. Both sides end with their file on disk.

#![allow(clippy::unwrap_used)]

use std::{
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use casemate_image::{Cache, Digest};

const ROUNDS: usize = 3;
/// What the tree has: many small files as in a distribution, some of a megabyte as libraries are, a few large ones.
const FILES: [(usize, usize); 3] = [(6_000, 9_000), (100, 1_000_000), (2, 64_000_000)];
/// Of the layer whose memory is looked at.
const LARGE: u64 = 4 << 30;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [word, cache, blob] = &arguments[..]
        && word == "child"
    {
        return print_peak(Path::new(cache), blob);
    }
    let dir = match arguments.first() {
        Some(folder) => tempfile::tempdir_in(folder).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    throughput(dir.path());
    memory(dir.path());
}

fn throughput(dir: &Path) {
    let tree = dir.join("tree");
    plant(&tree);
    let plain = dir.join("layer.tar");
    run(Command::new("tar").args(["--sort=name", "--owner=0", "--group=0", "-cf"]).arg(&plain).arg("-C").arg(&tree).arg("."));
    let gzip = compressed(&plain, "gz", |out| Box::new(flate2::write::GzEncoder::new(out, flate2::Compression::default())));
    let zstd = compressed(&plain, "zst", |out| Box::new(zstd::Encoder::new(out, 3).unwrap().auto_finish()));
    let bytes = plain.metadata().unwrap().len();
    println!("a layer of {} MB, medians of {ROUNDS} interleaved rounds", bytes / 1_000_000);
    let blobs = [("tar", &plain, ""), ("tar, gzip", &gzip, "z"), ("tar, zstd", &zstd, "--zstd")];
    let mut times: Vec<[Vec<Duration>; 3]> = Vec::from([const { [const { Vec::new() }; 3] }; 3]);
    for _ in 0..ROUNDS {
        for ((_, blob, unpacker), times) in blobs.iter().zip(&mut times) {
            times[0].push(by_tools(&tree, dir));
            times[1].push(unpacked(blob, unpacker, dir) + by_tools(&tree, dir));
            times[2].push(by_us(blob, dir));
        }
    }
    println!("| blob | tools on the unpacked tree | tools with unpacking | here | ratio | ratio with unpacking |");
    for ((name, ..), times) in blobs.iter().zip(times) {
        let [tools, unpacking, ours] = times.map(median);
        let rate = |time: f64| format!("{:.2} s, {:.0} MB/s", time, bytes as f64 / 1e6 / time);
        let row = [rate(tools), rate(unpacking), rate(ours)].join(" | ");
        println!("| {name} | {row} | {:.2} | {:.2} |", ours / tools, ours / unpacking);
    }
    kept(&plain, dir);
}

/// A cached layer is looked up, not converted.
fn kept(blob: &Path, dir: &Path) {
    let cache = Cache::open(dir.join("kept")).unwrap();
    let digest = add(&cache, blob);
    let first = cache.convert_layer(&digest, "").unwrap();
    cache.remove_blob(&digest).unwrap();
    let start = Instant::now();
    assert_eq!(cache.convert_layer(&digest, "").unwrap(), first);
    println!("the same layer, kept: {:?}", start.elapsed());
    fs::remove_file(blob).unwrap();
    fs::remove_dir_all(dir.join("kept")).unwrap();
}

/// One large layer, converted by a process of its own.
fn memory(dir: &Path) {
    let blob = dir.join("large.tar.zst");
    write_large(zstd::Encoder::new(File::create(&blob).unwrap(), 1).unwrap().auto_finish());
    let cache = dir.join("cache");
    let digest = add(&Cache::open(&cache).unwrap(), &blob);
    let exe = std::env::current_exe().unwrap();
    assert!(Command::new(exe).arg("child").arg(cache).arg(digest.to_string()).status().unwrap().success());
}

fn print_peak(cache: &Path, blob: &str) {
    let start = Instant::now();
    let layer = Cache::open(cache).unwrap().convert_layer(&blob.parse().unwrap(), "").unwrap();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim();
    println!("a layer of {} MiB, zstd: peak of resident memory {peak}, {:?}", layer.size_bytes >> 20, start.elapsed());
}

fn by_tools(tree: &Path, dir: &Path) -> Duration {
    let image = dir.join("tools.img");
    let start = Instant::now();
    run(Command::new("mkfs.erofs").arg("--quiet").arg(&image).arg(tree));
    let offset = format!("--hash-offset={}", image.metadata().unwrap().len());
    run(Command::new("veritysetup").arg("format").arg(offset).arg(&image).arg(&image));
    File::open(&image).unwrap().sync_all().unwrap();
    let time = start.elapsed();
    fs::remove_file(image).unwrap();
    time
}

fn by_us(blob: &Path, dir: &Path) -> Duration {
    let folder = dir.join("cache");
    let cache = Cache::open(&folder).unwrap();
    let digest = add(&cache, blob);
    let start = Instant::now();
    cache.convert_layer(&digest, "").unwrap();
    let time = start.elapsed();
    fs::remove_dir_all(folder).unwrap();
    time
}

fn unpacked(blob: &Path, unpacker: &str, dir: &Path) -> Duration {
    let to = dir.join("unpacked");
    fs::create_dir(&to).unwrap();
    let start = Instant::now();
    let mut command = Command::new("tar");
    if !unpacker.is_empty() {
        command.arg(if unpacker.starts_with('-') { unpacker.to_owned() } else { format!("-{unpacker}") });
    }
    run(command.arg("-xf").arg(blob).arg("-C").arg(&to));
    let time = start.elapsed();
    fs::remove_dir_all(to).unwrap();
    time
}

fn add(cache: &Cache, blob: &Path) -> Digest {
    let digest = Digest::of_reader(File::open(blob).unwrap()).unwrap();
    cache.add_blob_from_reader(&digest, None, File::open(blob).unwrap()).unwrap();
    digest
}

fn plant(tree: &Path) {
    for (number, size) in FILES.into_iter().flat_map(|(count, size)| (0..count).map(move |i| (i, size + i % 4096))) {
        let folder = tree.join(format!("part{}", number % 97)).join(format!("size{}", size / 100_000));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("file{number}")), content(size, number as u64)).unwrap();
    }
}

/// Compresses to about a third, as programs do.
fn content(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(size + 64);
    while out.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
        let from = out.len().saturating_sub(8 + (state >> 40) as usize % 2000);
        let copy = out[from..out.len().min(from + 6 + (state >> 20) as usize % 24)].to_vec();
        out.extend_from_slice(&copy);
    }
    out.truncate(size);
    out
}

fn write_large(mut out: impl Write) {
    let part = content(16 << 20, 7);
    let mut builder = tar::Builder::new(&mut out);
    let mut header = tar::Header::new_gnu();
    header.set_size(LARGE);
    header.set_mode(0o644);
    builder.append_data(&mut header, "large", Again { part: &part, at: 0 }.take(LARGE)).unwrap();
    builder.finish().unwrap();
    drop(builder);
    out.flush().unwrap();
}

/// The same part again and again.
struct Again<'p> {
    part: &'p [u8],
    at: usize,
}

impl Read for Again<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = buffer.len().min(self.part.len() - self.at);
        buffer[..n].copy_from_slice(&self.part[self.at..self.at + n]);
        self.at = (self.at + n) % self.part.len();
        Ok(n)
    }
}

fn compressed(plain: &Path, suffix: &str, encoder: impl Fn(BufWriter<File>) -> Box<dyn Write>) -> PathBuf {
    let path = plain.with_extension(format!("tar.{suffix}"));
    let mut out = encoder(BufWriter::new(File::create(&path).unwrap()));
    io::copy(&mut File::open(plain).unwrap(), &mut out).unwrap();
    out.flush().unwrap();
    drop(out);
    path
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
