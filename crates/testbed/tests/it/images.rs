//! Images beyond the simple: pulled by the node from a real registry, and with more layers than a machine has disk slots.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use casemate_testbed::{Bed, BedOptions, ImageBuilder, build_dir, static_program};
use serde_json::Value;

/// Says from which layer each of its files comes.
const PROGRAM: &str = r#"
#include <stdio.h>
int main(void) {
    char path[32], word[32];
    int seen = 0;
    for (int i = 0; i < 40; i++) {
        snprintf(path, sizeof path, "/files/%d", i);
        FILE *file = fopen(path, "r");
        if (file && fscanf(file, "%31s", word) == 1) seen++;
        if (file) fclose(file);
    }
    FILE *top = fopen("/top", "r");
    if (top && fscanf(top, "%31s", word) == 1) printf("%d files, top layer is %s\n", seen, word);
    return 0;
}
"#;

/// The distribution's `docker-registry`, on a port of its own.
struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    fn start(dir: &Path) -> Self {
        // Whoever takes the port in between makes the test fail, not pass.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let storage = dir.join("registry");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n",
            storage.display()
        );
        let path = dir.join("registry.yml");
        fs::write(&path, config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(path).stdout(Stdio::null()).stderr(Stdio::null());
        let registry = Self { child: command.spawn().expect("docker-registry is installed by `make setup`"), address };
        let start = Instant::now();
        while TcpStream::connect(&registry.address).is_err() {
            assert!(start.elapsed() < Duration::from_secs(30), "the registry does not listen");
            std::thread::yield_now();
        }
        registry
    }

    /// Uploads an image layout; returns its manifest's digest.
    fn push(&self, layout: &Path) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let base = format!("http://{}/v2/team/app", self.address);
            let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
            let manifest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
            for entry in fs::read_dir(layout.join("blobs/sha256")).unwrap().flatten() {
                let digest = format!("sha256:{}", entry.file_name().to_string_lossy());
                let begun = client.post(format!("{base}/blobs/uploads/")).send().await.unwrap().error_for_status().unwrap();
                let location = begun.headers()["location"].to_str().unwrap().to_owned();
                let separator = if location.contains('?') { '&' } else { '?' };
                let put = client.put(format!("{location}{separator}digest={digest}")).body(fs::read(entry.path()).unwrap());
                put.send().await.unwrap().error_for_status().unwrap();
            }
            let bytes = fs::read(layout.join("blobs/sha256").join(manifest.trim_start_matches("sha256:"))).unwrap();
            let put =
                client.put(format!("{base}/manifests/v1")).header("content-type", "application/vnd.oci.image.manifest.v1+json");
            put.body(bytes).send().await.unwrap().error_for_status().unwrap();
            manifest
        })
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One file in each of `count` layers, and a file that every layer replaces.
fn layered(count: usize) -> ImageBuilder {
    let program = static_program(PROGRAM).unwrap();
    let mut image = ImageBuilder::new().layer(&[("app", &program)]).entrypoint(&["/app"]);
    for number in 0..count {
        let (path, text) = (format!("files/{number}"), number.to_string());
        image = image.layer(&[(path.as_str(), text.as_bytes()), ("top", text.as_bytes())]);
    }
    image
}

#[test]
fn runs_images_from_a_registry_and_with_many_layers() {
    // An error says that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let agent_config = vec![format!("registries = [\"{}\"]", registry.address)];
    let bed = Bed::start(&BedOptions { agent_config, ..BedOptions::default() }).unwrap();
    let small = ["--memory-mib", "256", "--scratch-mib", "32"];

    // 41 layers: more than the 24 devices of a microvm.
    layered(40).write(&bed.work().join("many")).unwrap();
    let run = bed.casemate(&[&["run", "--image", "oci:./many"], &small[..]].concat()).expect_code(0);
    assert!(run.stdout.contains("40 files, top layer is 39\n"), "{}", run.stdout);

    let layout = dir.path().join("layout");
    layered(3).write(&layout).unwrap();
    let digest = registry.push(&layout);
    for reference in
        [format!("docker://{}/team/app:v1", registry.address), format!("docker://{}/team/app@{digest}", registry.address)]
    {
        let run = bed.casemate(&[&["run", "--image", reference.as_str()], &small[..]].concat()).expect_code(0);
        assert!(run.stdout.contains("3 files, top layer is 2\n"), "{}", run.stdout);
    }
    runs_them_encrypted(&bed, &registry, &layout);
    bed.assert_no_instance_remains();
    fills_and_empties_the_cache(&bed, &registry, &layout);
    bed.finish();
}

/// Beside the agent that runs, whose instances are gone.
fn fills_and_empties_the_cache(bed: &Bed, registry: &Registry, layout: &Path) {
    let agent = |words: &[&str]| {
        let mut command = Command::new(build_dir().join("casemate-agent"));
        let output =
            command.arg(words[0]).arg("--config").arg(bed.state().join("agent.toml")).args(&words[1..]).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let layers = || fs::read_dir(bed.state().join("agent/images/layers")).unwrap().count();
    assert!(layers() > 40, "what was used is kept");
    assert!(agent(&["collect", "--most-mib", "0"]).contains(" removed, "));
    assert_eq!(layers(), 0);
    let digest = registry.push(layout);
    let image = format!("{}/team/app@{digest}", registry.address);
    assert_eq!(agent(&["prefetch", &image]), format!("{image}: {digest}, 4 layers are ready\n"));
    assert_eq!(layers(), 4);
    let run = bed.casemate(&["run", "--memory-mib", "256", "--scratch-mib", "32", "--image", &format!("docker://{image}")]);
    assert!(run.expect_code(0).stdout.contains("3 files, top layer is 2\n"));
    assert_eq!(layers(), 4);
}

/// Ciphertext in a pack, and ciphertext that the node pulls.
fn runs_them_encrypted(bed: &Bed, registry: &Registry, layout: &Path) {
    let encrypt = |from: &str, to: &str| {
        let words = ["image", "encrypt", "--in", from, "--out", &format!("oci:./{to}"), "--all", "--key-out", "keys"];
        bed.casemate(&words).expect_code(0).stdout.trim().to_owned()
    };
    let run = |image: &str| {
        bed.casemate(&["run", "--memory-mib", "256", "--scratch-mib", "32", "--layer-keys", "keys", "--image", image])
    };
    encrypt("oci:./many", "many-secret");
    let many = run("oci:./many-secret").expect_code(0);
    assert!(many.stdout.contains("40 files, top layer is 39\n"), "{}", many.stdout);
    let manifest = encrypt(&format!("oci:{}", layout.display()), "few-secret");
    assert_eq!(registry.push(&bed.work().join("few-secret")), manifest);
    let image = format!("docker://{}/team/app", registry.address);
    let few = run(&format!("{image}@{manifest}")).expect_code(0);
    assert!(few.stdout.contains("3 files, top layer is 2\n"), "{}", few.stdout);
    // Whoever moves the tag could add a layer of his own.
    let by_tag = run(&format!("{image}:v1")).expect_code(1);
    assert!(by_tag.stderr.contains("must be named by its digest"), "{}", by_tag.stderr);
}
