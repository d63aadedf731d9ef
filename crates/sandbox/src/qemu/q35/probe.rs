//! What the installed QEMU and this host can do for confidential guests, asked and not assumed.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use crate::Support;

/// Kinds of protection that a driver may offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protections {
    /// AMD SEV-SNP.
    pub sev_snp: Support,
    /// Intel TDX.
    pub tdx: Support,
}

/// Asks the program and the kernel. What is there is still not offered: see `judge`.
pub fn probe(qemu: &Path) -> Protections {
    let ask = |object: &str| {
        let output = Command::new(qemu).args(["-object", object]).env_clear().stdin(Stdio::null()).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    };
    let objects = ask("help");
    let of = |kind: &Needs| {
        let properties = if lists(&objects, kind.object) { ask(&format!("{},help", kind.object)) } else { String::new() };
        judge(kind, &objects, &properties, fs::read_to_string(kind.switch).ok().as_deref())
    };
    Protections { sev_snp: of(&SEV_SNP), tdx: of(&TDX) }
}

/// What one kind needs.
struct Needs {
    object: &'static str,
    properties: &'static [&'static str],
    /// The kernel's word that it can host such guests.
    switch: &'static str,
}

const SEV_SNP: Needs = Needs {
    object: "sev-snp-guest",
    properties: &["cbitpos", "reduced-phys-bits", "policy", "kernel-hashes", "host-data"],
    switch: "/sys/module/kvm_amd/parameters/sev_snp",
};

const TDX: Needs = Needs { object: "tdx-guest", properties: &["mrconfigid"], switch: "/sys/module/kvm_intel/parameters/tdx" };

/// The first thing that is missing. At last it is the proof: nobody has run these machines on hardware yet, so that the driver does
/// not offer them.
fn judge(needs: &Needs, objects: &str, properties: &str, switch: Option<&str>) -> Support {
    let object = needs.object;
    if !lists(objects, object) {
        return Support::no(format!("the installed QEMU has no {object} object"));
    }
    if let Some(missing) = needs.properties.iter().find(|name| !properties.lines().any(|line| is_property(line, name))) {
        return Support::no(format!("the {object} object of the installed QEMU has no property {missing}"));
    }
    match switch.map(str::trim) {
        Some("Y" | "1") => Support::no("QEMU and kernel have it, but these machines have not run on hardware yet"),
        _ => Support::no(format!("the host's kernel does not offer it ({} is not Y)", needs.switch)),
    }
}

fn lists(objects: &str, object: &str) -> bool {
    objects.lines().any(|line| line.trim() == object)
}

fn is_property(line: &str, name: &str) -> bool {
    line.trim().strip_prefix(name).is_some_and(|rest| rest.starts_with('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(needs: &Needs, objects: &str, properties: &str, switch: Option<&str>) -> String {
        match judge(needs, objects, properties, switch) {
            Support::No(reason) => reason,
            Support::Yes => panic!("nothing is offered that was never run"),
        }
    }

    const OBJECTS: &str = "List of user creatable objects:\n  memory-backend-memfd\n  sev-snp-guest\n  tdx-guest\n";

    const SNP: &str = "sev-snp-guest options:\n  cbitpos=<uint32>       - C-bit location\n  host-data=<string>\n  \
                       kernel-hashes=<bool>   - add kernel hashes\n  policy=<uint64>\n  reduced-phys-bits=<uint32>\n";

    #[test]
    fn the_first_missing_piece_is_named() {
        assert_eq!(reason(&SEV_SNP, "  sev-guest\n", "", None), "the installed QEMU has no sev-snp-guest object");
        let without = SNP.replace("host-data", "host-date");
        let expected = "the sev-snp-guest object of the installed QEMU has no property host-data";
        assert_eq!(reason(&SEV_SNP, OBJECTS, &without, Some("Y\n")), expected);
        assert!(reason(&SEV_SNP, OBJECTS, SNP, Some("N\n")).contains("sev_snp is not Y"));
        assert!(reason(&SEV_SNP, OBJECTS, SNP, None).contains("sev_snp is not Y"));
        assert!(reason(&SEV_SNP, OBJECTS, SNP, Some("Y\n")).contains("not run on hardware yet"));
        assert!(reason(&TDX, OBJECTS, "  mrconfigid=<string>\n", Some("Y\n")).contains("not run on hardware yet"));
        assert!(reason(&TDX, OBJECTS, "  id=<string>\n", Some("Y\n")).contains("no property mrconfigid"));
    }

    /// Whatever is installed: the answer is a reason, never a promise.
    #[test]
    fn the_installed_qemu_is_asked() {
        let found = probe(&super::super::super::host::find_program("qemu-system-x86_64"));
        for support in [found.sev_snp, found.tdx] {
            assert!(matches!(&support, Support::No(reason) if !reason.is_empty()), "{support:?}");
        }
        let none = probe(Path::new("/nowhere/qemu"));
        assert_eq!(none.tdx, Support::no("the installed QEMU has no tdx-guest object"));
    }
}
