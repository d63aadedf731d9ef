//! Uploads.

use casemate_server::store::Role;
use reqwest::Method;
use sha2::{Digest as _, Sha256};

use crate::platform::{ASSET, LAYER, Platform};

fn files(platform: &Platform) -> usize {
    std::fs::read_dir(platform.dir.path().join("data/blobs")).unwrap().count()
}

#[tokio::test]
async fn keeps_what_matches_its_digest_once() {
    let platform = Platform::start().await;
    let tenant = platform.token(Role::Tenant).await;
    let path = format!("/blobs/sha256:{}", hex::encode(Sha256::digest(LAYER)));
    assert_eq!(tenant.send(tenant.request(Method::HEAD, &path)).await.status, 404);
    assert_eq!(tenant.put_blob(LAYER).await.status, 201);
    assert_eq!(tenant.put_blob(LAYER).await.status, 200);
    assert_eq!(tenant.send(tenant.request(Method::HEAD, &path)).await.status, 200);
    assert_eq!(files(&platform), 1);
}

#[tokio::test]
async fn refuses_bytes_with_another_digest_and_keeps_nothing() {
    let platform = Platform::start().await;
    let tenant = platform.token(Role::Tenant).await;
    let path = format!("/blobs/sha256:{}", hex::encode(Sha256::digest(LAYER)));
    let answer = tenant.send(tenant.request(Method::PUT, &path).body(ASSET)).await;
    let [expected, actual] = [LAYER, ASSET].map(|bytes| hex::encode(Sha256::digest(bytes)));
    let told = format!("422 digest-mismatch: the uploaded bytes have digest sha256:{actual}, not sha256:{expected}");
    assert!(answer.problem().starts_with(&told), "{}", answer.problem());
    assert_eq!(tenant.send(tenant.request(Method::HEAD, &path)).await.status, 404);
    assert_eq!(files(&platform), 0);
}

#[tokio::test]
async fn refuses_names_that_are_no_digests() {
    let platform = Platform::start().await;
    let tenant = platform.token(Role::Tenant).await;
    for name in ["..%2f..%2fetc%2fpasswd", "sha256:00", "md5:00"] {
        let answer = tenant.send(tenant.request(Method::PUT, &format!("/blobs/{name}")).body("x")).await;
        assert_eq!(answer.status, 422, "{name}");
    }
    assert_eq!(files(&platform), 0);
}

#[tokio::test]
async fn refuses_blobs_over_the_limit() {
    let platform = Platform::with("max_blob_mib = 1").await;
    let tenant = platform.token(Role::Tenant).await;
    let answer = tenant.put_blob(&vec![0; (1 << 20) + 1]).await;
    assert_eq!(answer.problem(), "413 too-large: the blob is larger than the limit of 1048576 bytes");
    assert_eq!(files(&platform), 0);
}
