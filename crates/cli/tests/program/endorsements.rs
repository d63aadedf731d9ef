//! `casemate endorsements fetch` and `casemate verify --fetch`, against a service on this machine.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

use crate::{answer, bytes, casemate, done, example, fails};

/// AMD's service for the example, or one that knows nothing. Lives as long as the test's process.
struct Service {
    url: String,
    asked: Arc<AtomicUsize>,
}

impl Service {
    fn start(knows: bool) -> Self {
        let request = example("snp");
        let chain = request["endorsements"]["chain"].clone();
        let crl = bytes(&request["endorsements"]["crl"]);
        let pem =
            |der: &Value| format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines(der.as_str().unwrap()));
        let issuers = pem(&chain[1]) + &pem(&chain[2]);
        let leaf = bytes(&chain[0]);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut first = String::new();
                let _ = reader.read_line(&mut first);
                let mut header = String::new();
                while reader.read_line(&mut header).is_ok_and(|length| length > 2) {
                    header.clear();
                }
                count.fetch_add(1, Ordering::SeqCst);
                let path = first.split(' ').nth(1).unwrap_or_default();
                let body = match path {
                    _ if !knows => None,
                    "/vcek/v1/Genoa/cert_chain" => Some(issuers.clone().into_bytes()),
                    "/vcek/v1/Genoa/crl" => Some(crl.clone()),
                    path if path.starts_with("/vcek/v1/Genoa/c5") => Some(leaf.clone()),
                    _ => None,
                };
                let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
                let body = body.unwrap_or_default();
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
            }
        });
        Self { url, asked }
    }
}

fn lines(text: &str) -> String {
    text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect::<Vec<_>>().join("\n")
}

/// A folder with the example's request, without endorsements, and its report alone.
fn desk() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (request, report) = (folder.path().join("request.json"), folder.path().join("report.bin"));
    let mut bare = example("snp");
    bare["endorsements"] = json!({ "chain": [] });
    fs::write(&request, bare.to_string()).unwrap();
    fs::write(&report, bytes(&bare["evidence"]["report"])).unwrap();
    (folder, request, report)
}

#[test]
fn a_request_without_endorsements_is_accepted_with_those_that_were_fetched() {
    let service = Service::start(true);
    let (folder, request, _) = desk();
    let (request, cache) = (request.to_str().unwrap(), folder.path().join("cache"));
    let fetch = ["--fetch", "--amd-kds", &service.url, "--cache", cache.to_str().unwrap()];
    assert_eq!(casemate(&["verify", "--evidence", request], b"").status.code(), Some(2), "nothing to judge by");
    let table = done(&[&["verify", "--evidence", request][..], &fetch].concat());
    assert!(table.contains("verdict: affirming"), "{table}");
    assert_eq!(service.asked.load(Ordering::SeqCst), 3);

    // As JSON, from standard input, with the answers that were kept.
    let output = casemate(&[&["verify", "--json"][..], &fetch].concat(), &fs::read(request).unwrap());
    assert_eq!((output.status.code(), &answer(&output)["accepted"]), (Some(0), &json!(true)));
    assert_eq!(service.asked.load(Ordering::SeqCst), 3);
    let output = casemate(&[&["verify", "--json"][..], &fetch, &["--max-age", "0"]].concat(), &fs::read(request).unwrap());
    assert_eq!(output.status.code(), Some(0));

    // What is fetched is judged like everything else.
    let output = casemate(&[&["verify", "--evidence", request, "--at", "2035-01-01T00:00:00Z"][..], &fetch].concat(), b"");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn endorsements_are_written_as_a_request_takes_them() {
    let service = Service::start(true);
    let (folder, request, report) = desk();
    let (out, cache) = (folder.path().join("endorsements.json"), folder.path().join("cache"));
    let common = ["--amd-kds", &service.url, "--cache", cache.to_str().unwrap()];
    done(
        &[&["endorsements", "fetch", "--evidence", report.to_str().unwrap(), "--out", out.to_str().unwrap()][..], &common]
            .concat(),
    );
    let found: Value = serde_json::from_slice(&fs::read(&out).unwrap()).unwrap();
    assert_eq!(found, example("snp")["endorsements"]);
    // In base64, and in a request, to standard output.
    fs::write(&report, BASE64.encode(fs::read(&report).unwrap())).unwrap();
    for file in [&report, &request] {
        let text = done(&[&["endorsements", "fetch", "--evidence", file.to_str().unwrap()][..], &common].concat());
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), found);
    }
}

#[test]
fn what_cannot_be_fetched_is_an_error_with_a_hint_and_nothing_is_written() {
    let service = Service::start(false);
    let (folder, request, report) = desk();
    let (out, cache) = (folder.path().join("out.json"), folder.path().join("cache"));
    let common = ["--amd-kds", &service.url, "--cache", cache.to_str().unwrap()];
    let fetch = ["endorsements", "fetch", "--evidence", report.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let said = fails(&[&fetch[..], &common].concat(), 1);
    assert!(said.contains("/vcek/v1/Genoa/cert_chain") && said.contains("404") && said.contains("hint: "), "{said}");
    assert!(!out.exists());
    let output = casemate(&[&["verify", "--json", "--fetch"][..], &common].concat(), &fs::read(&request).unwrap());
    assert_eq!(output.status.code(), Some(1), "not judged is not refused");
    assert!(answer(&output)["error"].as_str().unwrap().contains("404"));

    let said = fails(&["endorsements", "fetch", "--evidence", request.to_str().unwrap(), "--amd-kds", "http://kds.example"], 1);
    assert!(said.contains("no address to fetch AMD's certificates from"), "{said}");
    fs::write(&report, "hello").unwrap();
    assert!(fails(&[&fetch[..], &common].concat(), 1).contains("hint: "));
}

#[test]
fn options_of_fetching_without_it_and_kinds_without_vendors_are_told() {
    let (_folder, request, _) = desk();
    let request = request.to_str().unwrap();
    assert!(fails(&["verify", "--evidence", request, "--max-age", "5"], 64).contains("--fetch"));
    let tpm = crate::example_path("tpm");
    let cache = tempfile::tempdir().unwrap();
    let cache = cache.path().to_str().unwrap();
    let said = fails(&["verify", "--evidence", tpm.to_str().unwrap(), "--fetch", "--cache", cache], 1);
    assert!(said.contains("nothing to fetch for a request of kind tpm") && said.contains("hint: "), "{said}");
}
