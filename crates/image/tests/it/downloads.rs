//! Downloads from servers that break, lie, or want to know who asks.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use casemate_image::{Access, Blobs, Digest, ImageError, Mirror, Source};

use crate::support::{
    Bench, gzip,
    image::Image,
    server::{Reply, Request, Server},
    tarball::{Item, Tar},
};

fn image() -> Image {
    let mut state = 1u64;
    let mut noise = Vec::new();
    while noise.len() < 3_000_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        noise.extend_from_slice(&state.to_be_bytes()[..4]);
    }
    Image::new(&[gzip(&Tar::of([Item::file("large", noise)]), 1)])
}

fn layer(image: &Image) -> Digest {
    Digest::of(&image.blobs[0])
}

/// What an honest registry answers.
fn honest(image: &Image, request: &Request) -> Reply {
    let wanted = request.path.rsplit('/').next().and_then(|name| name.parse::<Digest>().ok());
    let known = image.blobs.iter().chain([&image.manifest]).find(|blob| Some(Digest::of(blob)) == wanted);
    match known {
        Some(blob) => Reply::part(request, blob),
        None if request.path.ends_with("/manifests/v1") => Reply::ok(&image.manifest),
        None => Reply::new("404 Not Found"),
    }
}

/// A registry that treats requests for the layer as told, and others well; the number counts those before.
fn registry(reply: impl Fn(&Image, &Request, usize) -> Reply + Send + Sync + 'static) -> Server {
    let (image, count) = (image(), AtomicUsize::new(0));
    let layer = layer(&image).hex();
    Server::start(move |request| {
        if request.path.ends_with(&layer) {
            reply(&image, request, count.fetch_add(1, Ordering::Relaxed))
        } else {
            honest(&image, request)
        }
    })
}

fn layer_requests(server: &Server) -> Vec<Option<usize>> {
    let layer = layer(&image()).hex();
    server.requests().into_iter().filter(|request| request.path.ends_with(&layer)).map(|request| request.from).collect()
}

async fn pull(bench: &Bench, address: &str, name: &str, access: &Access) -> Result<Digest, ImageError> {
    let source = Source::parse(&format!("{address}/a/b{name}")).unwrap();
    let blobs = Blobs::open_with(&source, &bench.cache, access).await?;
    let info = blobs.inspect().await?;
    for layer in &info.layers {
        blobs.fetch(layer).await?;
    }
    Ok(info.manifest_digest)
}

async fn pull_by_digest(bench: &Bench, address: &str, access: &Access) -> Result<Digest, ImageError> {
    pull(bench, address, &format!("@{}", Digest::of(&image().manifest)), access).await
}

fn mirrored(server: &Server, mirrors: &[&Server]) -> Access {
    let mirrors = mirrors.iter().map(|mirror| Mirror::parse(&format!("http://{}", mirror.address)).unwrap()).collect();
    Access { mirrors: [(server.address.clone(), mirrors)].into(), ..Access::default() }
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_broke() {
    let server = registry(|image, request, count| {
        let reply = honest(image, request);
        if count < 2 { reply.cut(500_000) } else { reply }
    });
    let bench = Bench::new();
    pull_by_digest(&bench, &server.address, &Access::default()).await.unwrap();
    assert!(bench.cache.has_blob(&layer(&image())) && bench.remains().is_empty());
    let from: Vec<_> = layer_requests(&server).into_iter().map(Option::unwrap_or_default).collect();
    // A client may not see all that was sent before a connection breaks.
    assert!(from.len() == 3 && from[0] == 0 && from[0] < from[1] && from[1] < from[2] && from[2] <= 1_000_000, "{from:?}");
}

#[tokio::test]
async fn parts_that_were_not_asked_for_are_never_taken() {
    // The part from another place; a part though the whole was asked for.
    let shifted = |image: &Image, request: &Request, count: usize| match (count, request.from) {
        (0, _) => honest(image, request).cut(500_000),
        (_, Some(from)) => Reply::ok(&image.blobs[0][from + 1..]).range(from + 1, image.blobs[0].len()),
        (_, None) => honest(image, request),
    };
    let server = registry(shifted);
    let bench = Bench::new();
    pull_by_digest(&bench, &server.address, &Access::default()).await.unwrap();
    assert_eq!(layer_requests(&server).last(), Some(&None), "the whole is asked for");
    let always = registry(|image, _, _| Reply::ok(&image.blobs[0][1000..]).range(1000, image.blobs[0].len()));
    let bench = Bench::new();
    let error = pull_by_digest(&bench, &always.address, &Access::default()).await.unwrap_err();
    assert_eq!(error.check(), "image.fetch");
    // It says that it is the right part, and is not.
    let liar = registry(|image, request, count| match (count, request.from) {
        (0, _) => honest(image, request).cut(500_000),
        (_, from) => Reply::ok(&image.blobs[0][7..]).range(from.unwrap_or(0), image.blobs[0].len()),
    });
    let error = pull_by_digest(&bench, &liar.address, &Access::default()).await.unwrap_err();
    assert_eq!(error.check(), "image.blob-digest", "{error:?}");
    assert!(!bench.cache.has_blob(&layer(&image())) && bench.remains().is_empty());
}

#[tokio::test]
async fn mirrors_are_asked_in_order_and_believed_only_by_digest() {
    let absent = Server::start(|_| Reply::new("404 Not Found"));
    let lying = registry(|image, request, _| {
        let mut body = image.blobs[0].clone();
        body[1000] ^= 1;
        Reply::part(request, &body)
    });
    let good = registry(|image, request, _| honest(image, request));
    let origin = registry(|image, request, _| honest(image, request));
    let bench = Bench::new();
    let access = mirrored(&origin, &[&absent, &lying, &good]);
    pull_by_digest(&bench, &origin.address, &access).await.unwrap();
    assert!(bench.cache.has_blob(&layer(&image())) && bench.remains().is_empty());
    assert_eq!([&absent, &lying, &good].map(|server| layer_requests(server).len()), [1, 1, 1]);
    assert_eq!(origin.requests(), [], "a mirror had it");
    // A tag is the registry's to explain.
    let bench = Bench::new();
    let access = mirrored(&origin, &[&good]);
    pull(&bench, &origin.address, ":v1", &access).await.unwrap();
    assert!(good.requests().iter().all(|request| !request.path.ends_with("v1")));
    assert!(origin.requests().iter().any(|request| request.path.ends_with("v1")));
    // All of them lie.
    let bench = Bench::new();
    let access = mirrored(&lying, &[&lying]);
    let error = pull_by_digest(&bench, &lying.address, &access).await.unwrap_err();
    assert_eq!(error.check(), "image.blob-digest");
}

#[tokio::test]
async fn a_mirror_that_lies_and_breaks_does_not_spoil_what_the_next_server_has() {
    let poisoner = registry(|image, request, count| {
        let mut body = image.blobs[0].clone();
        body[1000] ^= 1;
        if count == 0 { Reply::part(request, &body).cut(500_000) } else { Reply::new("404 Not Found") }
    });
    let origin = registry(|image, request, _| honest(image, request));
    let bench = Bench::new();
    pull_by_digest(&bench, &origin.address, &mirrored(&origin, &[&poisoner])).await.unwrap();
    assert!(bench.cache.has_blob(&layer(&image())) && bench.remains().is_empty());
    assert_eq!(layer_requests(&origin).last(), Some(&None), "begun anew, without the mirror's bytes");
}

#[tokio::test]
async fn waits_as_long_as_a_busy_server_says_and_gives_up_on_one_that_refuses() {
    let busy = registry(|image, request, count| match count {
        0 => Reply::new("429 Too Many Requests").header("Retry-After: 0"),
        1 => Reply::new("503 Service Unavailable").header("Retry-After: 0"),
        _ => honest(image, request),
    });
    pull_by_digest(&Bench::new(), &busy.address, &Access::default()).await.unwrap();
    let refusing = registry(|_, _, _| Reply::new("403 Forbidden"));
    let error = pull_by_digest(&Bench::new(), &refusing.address, &Access::default()).await.unwrap_err();
    assert_eq!((error.check(), layer_requests(&refusing).len()), ("image.fetch", 1));
}

/// An access file with a password for `address`.
fn access(bench: &Bench, address: &str) -> Access {
    let path = bench.dir.path().join("config.json");
    // alice:hunter2
    std::fs::write(&path, format!(r#"{{"auths":{{"{address}":{{"auth":"YWxpY2U6aHVudGVyMg=="}}}}}}"#)).unwrap();
    Access { auth_file: Some(path), ..Access::default() }
}

const PASSWORD: &str = "Basic YWxpY2U6aHVudGVyMg==";

/// Wants `authorization` for everything.
fn guarded(authorization: &'static str, challenge: impl Fn() -> String + Send + Sync + 'static) -> Server {
    let image = image();
    Server::start(move |request| match &request.authorization {
        Some(given) if given == authorization => honest(&image, request),
        _ => Reply::new("401 Unauthorized").header(&format!("WWW-Authenticate: {}", challenge())),
    })
}

#[tokio::test]
async fn a_password_is_given_where_it_is_asked_for_and_never_shown() {
    let server = guarded(PASSWORD, || "Basic realm=\"x\"".into());
    let bench = Bench::new();
    pull_by_digest(&bench, &server.address, &access(&bench, &server.address)).await.unwrap();
    assert_eq!(server.requests()[0].authorization, None, "not before it is asked for");
    for access in [access(&bench, "elsewhere.example"), Access { auth_file: Some("/nowhere".into()), ..Access::default() }] {
        let error = pull_by_digest(&Bench::new(), &server.address, &access).await.unwrap_err();
        assert_eq!(error.check(), "image.fetch");
    }
    let strict = guarded("Basic other", || "Basic realm=\"x\"".into());
    let error = pull_by_digest(&Bench::new(), &strict.address, &access(&bench, &strict.address)).await.unwrap_err();
    let words = format!("{error:?} {error}");
    assert!(!words.contains("hunter2") && !words.contains("YWxpY2U6"), "{words}");
    assert_eq!(strict.requests().len(), 2, "a wrong password is not tried again");
}

#[tokio::test]
async fn a_token_server_gets_the_password_and_the_registry_only_the_token() {
    let tokens = Arc::new(Server::start(|request| match &request.authorization {
        Some(given) if given == PASSWORD => Reply::ok(br#"{"token":"t0ken","expires_in":60}"#),
        _ => Reply::new("401 Unauthorized"),
    }));
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"s\",scope=\"repository:a/b:pull,push\"", tokens.address);
    let server = guarded("Bearer t0ken", move || realm.clone());
    let bench = Bench::new();
    pull_by_digest(&bench, &server.address, &access(&bench, &server.address)).await.unwrap();
    let given: Vec<_> = server.requests().into_iter().filter_map(|request| request.authorization).collect();
    assert!(!given.is_empty() && given.iter().all(|given| given == "Bearer t0ken"), "{given:?}");
    let asked = tokens.requests();
    assert_eq!(asked.len(), 1, "a token is kept");
    assert_eq!(asked[0].path, "/token?service=s&scope=repository%3Aa%2Fb%3Apull");
    let error = pull_by_digest(&Bench::new(), &server.address, &Access::default()).await.unwrap_err();
    assert_eq!(error.check(), "image.fetch");
}

#[tokio::test]
async fn token_servers_that_misbehave_are_refused() {
    let endless = Server::start(|_| Reply::endless());
    let nonsense = Server::start(|_| Reply::ok(b"{\"token\":\"a b\"}"));
    for realm in [
        format!("http://{}/t", endless.address),
        format!("http://{}/t", nonsense.address),
        "http://token.example/t".to_owned(),
        "file:///etc/passwd".to_owned(),
    ] {
        let server = guarded("Bearer x", move || format!("Bearer realm=\"{realm}\""));
        let bench = Bench::new();
        let error = pull_by_digest(&bench, &server.address, &access(&bench, &server.address)).await.unwrap_err();
        assert_eq!(error.check(), "image.fetch");
    }
}

#[tokio::test]
async fn storage_that_a_registry_redirects_to_gets_no_credentials() {
    let image_there = image();
    let storage = Arc::new(Server::start(move |request| Reply::part(request, &image_there.blobs[0])));
    let (image_here, layer, to) = (image(), layer(&image()).hex(), storage.address.replace("127.0.0.1", "localhost"));
    let server = Server::start(move |request| match &request.authorization {
        Some(given) if given == PASSWORD && request.path.ends_with(&layer) => {
            Reply::new("307 Temporary Redirect").header(&format!("Location: http://{to}/signed/{layer}"))
        }
        Some(given) if given == PASSWORD => honest(&image_here, request),
        _ => Reply::new("401 Unauthorized").header("WWW-Authenticate: Basic realm=\"x\""),
    });
    let bench = Bench::new();
    pull_by_digest(&bench, &server.address, &access(&bench, &server.address)).await.unwrap();
    let there = storage.requests();
    assert!(!there.is_empty() && there.iter().all(|request| request.authorization.is_none()), "{there:?}");
}
