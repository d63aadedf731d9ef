//! Node certificates that live for seconds: the agent renews them over its live connection, and an old one is worth nothing.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use casemate_testbed::{Bed, BedOptions};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use serde_json::Value;

use crate::support::{Background, prepare, run_args};

/// Life of a certificate.
const LIFE_S: u64 = 12;

#[test]
fn certificates_are_renewed_under_a_running_instance() {
    let server_config = vec![format!("certificate_s = {LIFE_S}")];
    let bed = Bed::start(&BedOptions { server_config, ..BedOptions::default() }).unwrap();
    prepare(&bed);
    let mut run = Background::start(&bed, &run_args(&[], &["22"]));
    let instance = run.instance();
    run.wait_for("ok running");
    let (first, seen_ms) = (credential(&bed), now_ms());
    assert!(platform_takes(&bed, &first), "a valid certificate opens a connection, or this test proves nothing");

    let second = next_credential(&bed, &first);
    bed.casemate(&["verify", &instance]).expect_code(0);
    let third = next_credential(&bed, &second);
    bed.casemate(&["verify", &instance]).expect_code(0);
    // A node that is renewed takes new instances, whose evidence is judged like any other.
    bed.casemate(&run_args(&[], &[])).expect_code(0);

    // The end of a certificate's life is what is waited for.
    let left = (seen_ms + LIFE_S * 1000 + 1500).saturating_sub(now_ms());
    std::thread::sleep(Duration::from_millis(left));
    assert!(!platform_takes(&bed, &first), "an expired certificate was taken");
    assert!(platform_takes(&bed, &credential(&bed)));
    assert_ne!(first["tls_key"], third["tls_key"], "each certificate has a key of its own");

    let outcome = run.finish().expect_code(0);
    assert!(outcome.stdout.contains("tick 1\n") && outcome.stdout.contains("done\n"), "{}", outcome.stdout);
    bed.casemate(&["receipt", "verify", &instance]).expect_code(0);
    bed.assert_no_instance_remains();
    bed.finish();
}

fn credential(bed: &Bed) -> Value {
    serde_json::from_slice(&fs::read(bed.state().join("agent/credential.json")).unwrap()).unwrap()
}

fn next_credential(bed: &Bed, old: &Value) -> Value {
    let deadline = Instant::now() + Duration::from_secs(LIFE_S);
    loop {
        let now = credential(bed);
        if now["chain"] != old["chain"] {
            return now;
        }
        assert!(Instant::now() < deadline, "the certificate was not renewed before its end");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Whether the platform's port for nodes talks HTTP/2 to whoever has this certificate.
fn platform_takes(bed: &Bed, credential: &Value) -> bool {
    // An error says that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let ca = CertificateDer::from_pem_file(bed.state().join("server/public/ca.pem")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca).unwrap();
    let bytes = |text: &Value| -> Vec<u8> {
        let text = text.as_str().unwrap();
        (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
    };
    let chain = credential["chain"].as_array().unwrap().iter().map(|der| CertificateDer::from(bytes(der))).collect();
    let key = PrivateKeyDer::from_pem_slice(credential["tls_key"].as_str().unwrap().as_bytes()).unwrap();
    let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    let session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let run: Value = serde_json::from_slice(&fs::read(bed.state().join("server/run.json")).unwrap()).unwrap();
    let socket = TcpStream::connect(run["node"].as_str().unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut stream = rustls::StreamOwned::new(session, socket);
    // The client's preface and empty settings; the answer begins with the server's settings.
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    let mut answer = [0; 9];
    stream.write_all(&preface).and_then(|()| stream.read_exact(&mut answer)).is_ok() && answer[3] == 4
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}
