//! The score card of an instance: what holds it, by layer, each line from somebody's observation.
//!
//! The list of lines is closed and the same for every instance: what nobody observed is a line that says so, never one that
//! holds. Who observes a line, and whether evidence covers it, is a property of the line and not of whoever reports it: a guest
//! cannot speak for its node, nor a node for the verifier.

/// What protects an instance, from the outside in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// Firmware, secure boot, TPM, IOMMU.
    Platform,
    /// The host's kernel and its monitor.
    Host,
    /// The jail around VMM or container.
    Jail,
    /// The VMM and the guest's memory.
    Vmm,
    /// The guest's kernel and its hardening.
    Guest,
}

impl Layer {
    /// As in tables and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Platform => "L-1",
            Self::Host => "L0",
            Self::Jail => "L1",
            Self::Vmm => "L2",
            Self::Guest => "L3",
        }
    }
}

/// Who saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Observer {
    /// The node's agent, on its own machine.
    Agent,
    /// Process 1 of the guest, in its machine.
    Guest,
    /// The platform's verifier, in evidence.
    Verifier,
}

impl Observer {
    /// As in tables and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Guest => "guest",
            Self::Verifier => "verifier",
        }
    }
}

/// One line of the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Its name on the wire.
    pub name: &'static str,
    /// Where it belongs.
    pub layer: Layer,
    /// Who has to have seen it.
    pub observer: Observer,
    /// In plain words, what holds when it holds.
    pub what: &'static str,
    /// The part of the evidence that says the same; empty where only the observer's word stands for it.
    pub evidence: &'static str,
}

impl Item {
    /// The line with this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        ITEMS.iter().find(|item| item.name == name)
    }
}

/// What somebody saw of one line.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observation {
    /// Name of the [`Item`].
    pub item: String,
    /// Whether it holds.
    pub held: bool,
    /// What was seen.
    pub seen: String,
}

impl Observation {
    /// Of a line that exists; `seen` is cut to [`MAX_SEEN`] and freed of control characters.
    pub fn new(item: &'static str, held: bool, seen: impl AsRef<str>) -> Self {
        debug_assert!(Item::find(item).is_some(), "no line {item}");
        Self { item: item.to_owned(), held, seen: clean(seen.as_ref()) }
    }
}

/// Of what came from outside, only what this observer may say, each line once, and no more than there are lines.
pub fn believable(observer: Observer, said: impl IntoIterator<Item = Observation>) -> Vec<Observation> {
    let mut kept: Vec<Observation> = Vec::new();
    for observation in said.into_iter().take(MAX_OBSERVATIONS) {
        let allowed = Item::find(&observation.item).is_some_and(|item| item.observer == observer);
        if allowed && !kept.iter().any(|known| known.item == observation.item) {
            kept.push(Observation { seen: clean(&observation.seen), ..observation });
        }
    }
    kept
}

fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_SEEN).collect()
}

/// Most observations in one message.
pub const MAX_OBSERVATIONS: usize = 64;

/// Most characters of what was seen.
pub const MAX_SEEN: usize = 200;

/// All lines, from the outside in.
pub const ITEMS: &[Item] = &[
    item("secure-boot", Layer::Platform, Observer::Agent, "secure boot is on", ""),
    item("secure-boot-verified", Layer::Platform, Observer::Verifier, "the boot log says that secure boot was on", "node quote"),
    item("tpm", Layer::Platform, Observer::Agent, "the machine has a TPM 2.0 with a boot log", ""),
    item("tpm-verified", Layer::Platform, Observer::Verifier, "the node's quote is of a genuine TPM", "node quote"),
    item("iommu", Layer::Platform, Observer::Agent, "an IOMMU keeps devices out of memory", ""),
    item("cpu-mitigations", Layer::Platform, Observer::Agent, "no known processor flaw is open", ""),
    item("host-lockdown", Layer::Host, Observer::Agent, "the host's kernel is locked down", ""),
    item("host-modules-signed", Layer::Host, Observer::Agent, "only signed kernel modules, or none, can be loaded", ""),
    item("host-kexec-off", Layer::Host, Observer::Agent, "no other kernel can be put in place of the host's", ""),
    item("host-bpf-privileged", Layer::Host, Observer::Agent, "BPF programs need privileges", ""),
    item("host-untainted", Layer::Host, Observer::Agent, "the host's kernel is not tainted", ""),
    item("host-live-patches", Layer::Host, Observer::Agent, "live patches are in force", ""),
    item("host-no-swap", Layer::Host, Observer::Agent, "the host has no swap", ""),
    item("host-no-merge", Layer::Host, Observer::Agent, "the host merges no equal pages", ""),
    item("host-dedicated", Layer::Host, Observer::Agent, "the host runs what its owner's policy allows, and nothing else", ""),
    item("monitor", Layer::Host, Observer::Agent, "the monitor denies, and all of its links are there", ""),
    item("node-software-verified", Layer::Host, Observer::Verifier, "agent and VMM are known ones", "node quote"),
    item("jail-user", Layer::Jail, Observer::Agent, "a user of its own without privileges", LAUNCH),
    item("jail-no-new-privs", Layer::Jail, Observer::Agent, "no thread can gain privileges", LAUNCH),
    item("jail-seccomp", Layer::Jail, Observer::Agent, "every thread has a system call filter", LAUNCH),
    item("jail-landlock", Layer::Jail, Observer::Agent, "Landlock holds it to the files that it was given", ""),
    item("jail-capabilities", Layer::Jail, Observer::Agent, "no thread has a capability", LAUNCH),
    item("jail-namespaces", Layer::Jail, Observer::Agent, "namespaces of its own", LAUNCH),
    item("jail-cgroup", Layer::Jail, Observer::Agent, "a control group with limits", LAUNCH),
    item("jail-verified", Layer::Jail, Observer::Verifier, "the launch record shows a whole jail", LAUNCH),
    item("vmm-kvm", Layer::Vmm, Observer::Agent, "the processor separates the guest, not an emulator", LAUNCH),
    item("memory-private", Layer::Vmm, Observer::Agent, "guest memory is a file for the VMM alone", ""),
    item("memory-no-swap", Layer::Vmm, Observer::Agent, "guest memory is never swapped", ""),
    item("memory-no-merge", Layer::Vmm, Observer::Agent, "guest memory is never merged with another's", ""),
    item("memory-no-dump", Layer::Vmm, Observer::Agent, "guest memory is in no core dump", ""),
    item("vmm-verified", Layer::Vmm, Observer::Verifier, "the VMM or OCI runtime is a known one, and the measured one", LAUNCH),
    item("guest-root-verity", Layer::Guest, Observer::Guest, "the root is on dm-verity, read-only", "vTPM quote (root hash)"),
    item("guest-scratch-encrypted", Layer::Guest, Observer::Guest, "scratch is on dm-crypt", ""),
    item("guest-no-swap", Layer::Guest, Observer::Guest, "the guest has no swap", ""),
    item("guest-lockdown", Layer::Guest, Observer::Guest, "the guest's kernel is locked down", KERNEL),
    item("guest-modules-off", Layer::Guest, Observer::Guest, "no kernel module can be loaded", ""),
    item("guest-settings", Layer::Guest, Observer::Guest, "the kernel's settings are the hardened ones", ""),
    item("guest-kernel-options", Layer::Guest, Observer::Guest, "no vsyscall page, no merged slabs", KERNEL),
    item("guest-workload-confined", Layer::Guest, Observer::Guest, "the workload is filtered and without privileges", ""),
    item(
        "guest-verified",
        Layer::Guest,
        Observer::Verifier,
        "kernel, initrd, command line and root are known ones",
        "vTPM quote",
    ),
];

const LAUNCH: &str = "launch record";

const KERNEL: &str = "vTPM quote (kernel, command line)";

const fn item(name: &'static str, layer: Layer, observer: Observer, what: &'static str, evidence: &'static str) -> Item {
    Item { name, layer, observer, what, evidence }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(item: &str, seen: &str) -> Observation {
        Observation { item: item.to_owned(), held: true, seen: seen.to_owned() }
    }

    #[test]
    fn lines_are_named_once_and_go_from_the_outside_in() {
        let mut names: Vec<_> = ITEMS.iter().map(|item| item.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ITEMS.len());
        assert!(ITEMS.is_sorted_by_key(|item| item.layer));
        assert!(ITEMS.len() <= MAX_OBSERVATIONS);
    }

    #[test]
    fn nobody_speaks_for_another() {
        let all = [said("iommu", ""), said("guest-no-swap", ""), said("guest-verified", ""), said("no such line", "")];
        let of = |observer| believable(observer, all.clone()).into_iter().map(|kept| kept.item).collect::<Vec<_>>();
        assert_eq!(of(Observer::Agent), ["iommu"]);
        assert_eq!(of(Observer::Guest), ["guest-no-swap"]);
        assert_eq!(of(Observer::Verifier), ["guest-verified"]);
    }

    #[test]
    fn a_line_is_said_once_and_shortly() {
        let long = format!("a\x1b[2J\n{}", "ä".repeat(1000));
        let kept = believable(Observer::Agent, [said("tpm", &long), said("tpm", "later")]);
        assert_eq!(kept.len(), 1);
        assert!(kept[0].seen.starts_with("a [2J ä"), "{}", kept[0].seen);
        assert_eq!(kept[0].seen.chars().count(), MAX_SEEN);
        let flood = (0..1000).map(|_| said("unknown", "")).chain([said("tpm", "")]);
        assert!(believable(Observer::Agent, flood).is_empty(), "what comes after the limit is not looked at");
    }
}
