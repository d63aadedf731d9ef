//! A database over a network: its certificate is verified, the password stays where it belongs.

use std::{
    net::TcpListener,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use casemate_server::{
    config::Config,
    fault::chain,
    store::{Store, StoreError},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::{platform::write_config, postgres::Cluster};

const PASSWORD: &str = "correct horse";

/// A CA, and a server certificate for `name` with its key.
fn certificates(name: &str) -> (String, String, String) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    (ca_pem, leaf.pem(), key.serialize_pem())
}

fn write_private(path: &Path, text: &str) {
    use std::io::Write as _;
    let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// A cluster that takes passwords over TLS and nothing else from the network.
fn cluster(certificate: String, key: String) -> (Cluster, u16) {
    // Another process may take the port in between; then PostgreSQL does not start, and the test says so.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let cluster = Cluster::launch(move |data| {
        write_private(&data.join("server.crt"), &certificate);
        write_private(&data.join("server.key"), &key);
        write_private(&data.join("pg_hba.conf"), "local all all trust\nhostssl all all all scram-sha-256\n");
        // The socket's name holds the port, and the tests ask there.
        vec!["listen_addresses=127.0.0.1".into(), format!("port={port}"), "ssl=on".into()]
    });
    (cluster, port)
}

#[derive(Clone, Copy)]
struct Way<'a> {
    host: &'a str,
    ca: &'a str,
    password: &'a str,
    more: &'a str,
}

async fn open(port: u16, way: &Way<'_>) -> Result<Store, StoreError> {
    let dir = tempfile::tempdir().unwrap();
    let (ca, password) = (dir.path().join("ca.pem"), dir.path().join("password"));
    std::fs::write(&ca, way.ca).unwrap();
    write_private(&password, way.password);
    assert_eq!(std::fs::metadata(&password).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(write_config(dir.path(), "")).unwrap();
    let text = text.split("[store]").next().unwrap();
    let url = format!("postgres://casemate@{}:{port}/postgres?sslrootcert={}{}", way.host, ca.display(), way.more);
    let path = dir.path().join("tls.toml");
    std::fs::write(&path, format!("{text}[store]\nurl = {url:?}\npassword_file = {password:?}\n")).unwrap();
    let config: Config = casemate_daemon::config::load(&path).unwrap();
    Store::open(&config.store_access().unwrap()).await
}

#[tokio::test]
async fn the_database_must_be_who_it_should_be_and_so_must_we() {
    casemate_daemon::tls::install_provider();
    let (ca, certificate, key) = certificates("localhost");
    let (other, ..) = certificates("localhost");
    let (cluster, port) = cluster(certificate, key);
    cluster.run("postgres", &format!("ALTER ROLE casemate PASSWORD '{PASSWORD}'"));
    let good = Way { host: "localhost", ca: &ca, password: PASSWORD, more: "&sslmode=verify-full" };
    open(port, &good).await.unwrap().close().await;

    let refused = [
        ("another CA", Way { ca: &other, ..good }),
        ("another name", Way { host: "127.0.0.1", ..good }),
        ("another password", Way { password: "wrong horse", ..good }),
        ("no TLS", Way { more: "&sslmode=disable", ..good }),
    ];
    for (what, way) in refused {
        let error = chain(&open(port, &way).await.map(drop).unwrap_err());
        assert!(!error.contains("horse") && error.starts_with("open database"), "{what}: {error}");
    }
}
