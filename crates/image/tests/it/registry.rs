//! A real registry, and some that lie.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use base64::Engine as _;
use casemate_image::{Access, Blobs, Digest, ImageError, Limits, Reference, Source};
use oci_client::{
    Client,
    client::{ClientConfig, ClientProtocol},
    secrets::RegistryAuth,
};

use crate::support::{
    Bench, gzip, has_tool,
    image::{Image, MANIFEST, descriptor, index_of},
    tarball::{Item, Tar},
};

fn image() -> Image {
    let noise: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    Image::new(&[gzip(&Tar::of([Item::file("large", noise)]), 1), gzip(&Tar::of([Item::file("two", "2")]), 6)])
}

#[tokio::test]
async fn pulls_by_tag_and_by_digest_from_a_real_registry() {
    if !has_tool("docker-registry") {
        return;
    }
    let bench = Bench::new();
    let registry = Registry::start(&bench);
    let image = image();
    let index = index_of(descriptor(MANIFEST, &image.manifest));
    push(&registry.address, &image, &index, &RegistryAuth::Anonymous).await;
    let plain = Source::parse(&format!("docker://{}/some/demo:v1", registry.address)).unwrap();
    let by_digest = format!("{}/some/demo@{}", registry.address, Digest::of(&image.manifest));
    for source in [plain, Source::parse(&by_digest).unwrap()] {
        let bench = Bench::new();
        let blobs = Blobs::open(&source, &bench.cache).await.unwrap();
        let info = blobs.inspect().await.unwrap();
        assert_eq!(info.manifest_digest, Digest::of(&image.manifest));
        for (layer, content) in info.layers.iter().zip(&image.blobs) {
            let path = blobs.fetch(layer).await.unwrap();
            assert!(std::fs::read(path).unwrap() == *content);
        }
        let layer = bench.cache.convert_layer(&info.layers[0].digest, &info.layers[0].media_type).unwrap();
        let direct = Bench::new().convert(&image.blobs[0]).unwrap();
        assert_eq!(layer.root_hash, direct.root_hash, "tenant and node agree");
    }
    let missing = Source::parse(&format!("{}/some/demo:v2", registry.address)).unwrap();
    let error = casemate_image::inspect(&missing, &bench.cache).await.unwrap_err();
    assert_eq!(error.check(), "image.fetch");
}

#[tokio::test]
async fn refuses_a_registry_that_sends_other_bytes() {
    let image = image();
    let manifest = Digest::of(&image.manifest);
    let layer = Digest::of(&image.blobs[1]);
    for (tampered, is_layer) in [(manifest, false), (layer, true)] {
        let fake = Fake::serving(&image, move |digest, body| {
            if digest == tampered {
                *body.last_mut().unwrap() ^= 1;
            }
            Answer::Whole
        });
        let bench = Bench::new();
        let error = fake.pull(&bench, manifest).await.unwrap_err();
        assert_eq!(error.check(), "image.blob-digest", "{error:?}");
        assert!(bench.remains().is_empty() && (!is_layer || !bench.cache.has_blob(&layer)));
    }
}

#[tokio::test]
async fn refuses_what_is_longer_than_announced_or_endless() {
    let image = image();
    let manifest = Digest::of(&image.manifest);
    let layer = Digest::of(&image.blobs[1]);
    let longer = Fake::serving(&image, move |digest, body| {
        if digest == layer {
            body.push(0);
        }
        Answer::Whole
    });
    let bench = Bench::new();
    assert!(matches!(longer.pull(&bench, manifest).await, Err(ImageError::BlobSize { .. })));
    assert!(bench.remains().is_empty());
    let endless = Fake::serving(&image, |_, _| Answer::Endless);
    let bench = Bench::with_limits(Limits { manifest_bytes: 100_000, ..Limits::default() });
    let error = endless.pull(&bench, manifest).await.unwrap_err();
    assert_eq!(error.check(), "image.fetch");
}

#[tokio::test]
async fn asks_again_after_a_broken_download_but_not_forever() {
    let image = image();
    let manifest = Digest::of(&image.manifest);
    let layer = Digest::of(&image.blobs[0]);
    let was_cut = AtomicBool::new(false);
    let once = Fake::serving(&image, move |digest, _| {
        if digest == layer && !was_cut.swap(true, Ordering::Relaxed) { Answer::CutShort } else { Answer::Whole }
    });
    let bench = Bench::new();
    once.pull(&bench, manifest).await.unwrap();
    assert!(bench.cache.has_blob(&layer) && bench.remains().is_empty());
    let always = Fake::serving(&image, move |digest, _| if digest == layer { Answer::CutShort } else { Answer::Whole });
    let bench = Bench::new();
    let error = always.pull(&bench, manifest).await.unwrap_err();
    assert_eq!(error.check(), "image.fetch");
    assert_eq!(always.requests().iter().filter(|path| path.contains(&layer.hex())).count(), 3);
    assert!(bench.remains().is_empty() && !bench.cache.has_blob(&layer));
}

#[tokio::test]
async fn gives_a_real_registry_the_password_that_it_asks_for() {
    if !has_tool("docker-registry") {
        return;
    }
    let bench = Bench::new();
    // alice, "correct horse"
    let users = bench.dir.path().join("users");
    std::fs::write(&users, "alice:$2b$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2\n").unwrap();
    let extra = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", users.display());
    let registry = Registry::start_with(&bench, &extra);
    let image = image();
    let auth = RegistryAuth::Basic("alice".into(), "correct horse".into());
    let index = index_of(descriptor(MANIFEST, &image.manifest));
    push(&registry.address, &image, &index, &auth).await;
    let source = Source::parse(&format!("{}/some/demo:v1", registry.address)).unwrap();
    let file = bench.dir.path().join("config.json");
    let access = Access { auth_file: Some(file.clone()), ..Access::default() };
    for (password, is_right) in [("correct horse", true), ("wrong horse", false)] {
        let entry = base64::engine::general_purpose::STANDARD.encode(format!("alice:{password}"));
        std::fs::write(&file, format!(r#"{{"auths":{{"{}":{{"auth":"{entry}"}}}}}}"#, registry.address)).unwrap();
        let bench = Bench::new();
        let blobs = Blobs::open_with(&source, &bench.cache, &access).await.unwrap();
        let info = blobs.inspect().await;
        assert_eq!(info.is_ok(), is_right);
        if let Ok(info) = info {
            blobs.fetch(&info.layers[0]).await.unwrap();
        }
    }
}

async fn push(address: &str, image: &Image, index: &[u8], auth: &RegistryAuth) {
    // An error says that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
    let tag: Reference = format!("{address}/some/demo:v1").parse().unwrap();
    client.store_auth_if_needed(address, auth).await;
    for blob in &image.blobs {
        client.push_blob(&tag, blob.clone(), &Digest::of(blob).to_string()).await.unwrap();
    }
    let by_digest = tag.clone_with_digest(Digest::of(&image.manifest).to_string());
    client.push_manifest_raw(&by_digest, image.manifest.clone(), MANIFEST.parse().unwrap()).await.unwrap();
    let index_type = crate::support::image::INDEX.parse().unwrap();
    client.push_manifest_raw(&tag, index.to_vec(), index_type).await.unwrap();
}

/// The `docker-registry` of the distribution, on a port of its own.
struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    fn start(bench: &Bench) -> Self {
        Self::start_with(bench, "")
    }

    /// With more lines of configuration.
    fn start_with(bench: &Bench, extra: &str) -> Self {
        // The program cannot choose a port itself; between our choice and its start somebody else may take it.
        (0..5).find_map(|_| Self::try_start(bench, extra)).expect("docker-registry starts")
    }

    fn try_start(bench: &Bench, extra: &str) -> Option<Self> {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let storage = bench.dir.path().join("registry");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n{extra}",
            storage.display()
        );
        let path = bench.dir.path().join("registry.yml");
        std::fs::write(&path, config).unwrap();
        let child = Command::new("docker-registry").arg("serve").arg(path).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut registry = Self { child: child.unwrap(), address };
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(30) {
            if TcpStream::connect(&registry.address).is_ok() {
                return Some(registry);
            }
            if registry.child.try_wait().unwrap().is_some() {
                return None;
            }
            std::thread::yield_now();
        }
        None
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

enum Answer {
    Whole,
    CutShort,
    Endless,
}

/// A registry of one image that does with each answer what it is told to.
struct Fake {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    fn serving(image: &Image, tamper: impl Fn(Digest, &mut Vec<u8>) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let blobs: Vec<Vec<u8>> = image.blobs.iter().chain([&image.manifest]).cloned().collect();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (log, tamper) = (requests.clone(), Arc::new(tamper));
        // The thread ends with the test process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (blobs, log, tamper) = (blobs.clone(), log.clone(), tamper.clone());
                std::thread::spawn(move || answer(stream, &blobs, &log, &*tamper));
            }
        });
        Self { address, requests }
    }

    async fn pull(&self, bench: &Bench, manifest: Digest) -> Result<(), ImageError> {
        let source = Source::parse(&format!("{}/x@{manifest}", self.address)).unwrap();
        let blobs = Blobs::open(&source, &bench.cache).await?;
        let info = blobs.inspect().await?;
        for layer in &info.layers {
            blobs.fetch(layer).await?;
        }
        Ok(())
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn answer(
    mut stream: TcpStream,
    blobs: &[Vec<u8>],
    log: &Mutex<Vec<String>>,
    tamper: &dyn Fn(Digest, &mut Vec<u8>) -> Answer,
) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    while !lines.next()?.ok()?.is_empty() {}
    log.lock().unwrap().push(path.clone());
    let wanted = path.rsplit('/').next().and_then(|digest| digest.parse::<Digest>().ok());
    let blob = wanted.and_then(|digest| Some((digest, blobs.iter().find(|blob| Digest::of(blob) == digest)?)));
    let Some((digest, blob)) = blob else {
        return stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}").ok();
    };
    let mut body = blob.clone();
    match tamper(digest, &mut body) {
        Answer::Whole | Answer::CutShort if body.is_empty() => None,
        Answer::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").ok()?;
            loop {
                stream.write_all(&[b' '; 4096]).ok()?;
            }
        }
        how => {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let sent = if matches!(how, Answer::CutShort) { body.len() / 2 } else { body.len() };
            stream.write_all(head.as_bytes()).ok()?;
            stream.write_all(&body[..sent]).ok()
        }
    }
}
