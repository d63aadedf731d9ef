//! The driver on the distribution's stock kernel, in a node guest: what this machine's own kernel can do proves nothing of an older one.

use std::{fs, path::Path};

use casemate_sandbox::oci::Runtime;
use casemate_testbed::node_guest::{Archive, Kernel, boot, kernels};

use crate::{
    containers::{init, layers},
    places::JAIL,
};

#[test]
fn a_container_runs_on_the_stock_kernel_of_the_distribution() {
    let folder = tempfile::tempdir().unwrap();
    let Some(kernel) = kernels(&folder.path().join("kernels")).into_iter().next() else { return };
    let initrd = folder.path().join("initrd");
    fs::write(&initrd, archive(&kernel)).unwrap();
    let console = boot(&kernel, &initrd, "/jail -- node");
    let told = |what: &str| {
        let mut lines = console.iter().filter_map(|line| line.strip_prefix("NODE ")?.strip_prefix(what)?.strip_prefix(": "));
        lines.next().unwrap_or_else(|| panic!("{}: nothing was said of {what}: {console:#?}", kernel.version)).to_owned()
    };
    assert!(console.iter().any(|line| line == "NODE-END"), "{}: {console:#?}", kernel.version);
    assert!(told("runtime").starts_with("\"crun"));
    assert_eq!(told("jail"), r#"["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"]"#);
    assert_eq!(told("cat /etc/hello"), "\"from the lower layer\"");
    assert_eq!(told("cat /etc/upper"), "\"from the upper layer\"");
    assert_eq!(told("fill /etc/new 4"), "\"done\"");
    assert_eq!(told("try mount"), "\"errno 1\"");
    assert_eq!(told("try open /state"), "\"errno 2\"");
    assert_eq!(told("wiped"), "true");
    assert_eq!(told("devices at the end"), "[]");
    // Debian 12: the first release with file-backed EROFS is 6.12, and 6.1 must have gone the other way.
    if kernel.version.starts_with("6.1.") {
        assert_eq!(told("devices"), r#"["/layers/0", "/layers/1"]"#);
    }
    eprintln!("{}: {} with {}", kernel.version, told("runtime"), told("devices"));
}

fn archive(kernel: &Kernel) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.program("jail", Path::new(JAIL));
    archive.program("usr/bin/crun", &Runtime::Crun.find());
    archive.file("container-init", fs::read(init()).unwrap());
    for (index, module) in kernel.container_modules().into_iter().enumerate() {
        archive.file(&format!("modules/{index:02}"), module);
    }
    for (index, layer) in layers().iter().enumerate() {
        archive.file(&format!("layers/{index}"), fs::read(&layer.path).unwrap());
    }
    archive.bytes()
}
