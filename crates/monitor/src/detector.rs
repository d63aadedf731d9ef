//! Detectors: what can be noticed, which group it belongs to, and what is done about it unless the policy says otherwise.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A group of hooks. A node whose kernel lacks one of a group's hooks is not guarded in that group, and says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// Labels of tasks: without them there is nothing to decide on.
    Labels,
    /// Tracing and looking into processes.
    Ptrace,
    /// Guest memory.
    Memory,
    /// Guarded files, and what lies below and above them.
    Files,
    /// Kernel modules.
    Modules,
    /// Other BPF programs and our own objects.
    Bpf,
    /// Signals to instances, and their cgroups.
    Signals,
    /// The monitor itself.
    Own,
    /// Character devices that machines are made of.
    Devices,
    /// Control sockets.
    Sockets,
    /// PCI devices and IOMMU groups in sysfs.
    Hardware,
    /// Namespaces of instances, and what is configured in them.
    Namespaces,
    /// The node: its kernel, its end, its clock.
    System,
}

impl Group {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Labels,
        Self::Ptrace,
        Self::Memory,
        Self::Files,
        Self::Modules,
        Self::Bpf,
        Self::Signals,
        Self::Own,
        Self::Devices,
        Self::Sockets,
        Self::Hardware,
        Self::Namespaces,
        Self::System,
    ];
}

/// What is done: bits as the programs know them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actions(pub u32);

impl Actions {
    /// Refuse it.
    pub const DENY: u32 = 1;
    /// Count and report it.
    pub const NOTE: u32 = 2;
    /// End the instances.
    pub const TRIP: u32 = 4;
    /// End who tried.
    pub const KILL: u32 = 8;
}

/// One word of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Refuse it.
    Deny,
    /// Count and report it.
    Note,
    /// End the instances.
    Trip,
    /// End who tried.
    Kill,
}

impl FromIterator<Action> for Actions {
    fn from_iter<T: IntoIterator<Item = Action>>(actions: T) -> Self {
        Self(actions.into_iter().fold(0, |bits, action| {
            bits | match action {
                Action::Deny => Self::DENY,
                Action::Note => Self::NOTE,
                Action::Trip => Self::TRIP,
                Action::Kill => Self::KILL,
            }
        }))
    }
}

impl Actions {
    /// As words.
    pub fn words(self) -> Vec<Action> {
        let all = [Action::Deny, Action::Note, Action::Trip, Action::Kill];
        all.into_iter().filter(|action| self.0 & Self::from_iter([*action]).0 != 0).collect()
    }
}

const BREACH: u32 = Actions::DENY | Actions::NOTE | Actions::TRIP;
const REFUSED: u32 = Actions::DENY | Actions::NOTE;
/// There is no hook that could refuse it.
const SEEN: u32 = Actions::NOTE | Actions::TRIP;

macro_rules! detectors {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $group:ident, $actions:expr;)*) => {
        /// What can be noticed. The order is that of `enum detector` in `bpf/maps.h`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Detector { $($(#[$doc])* $variant,)* }

        impl Detector {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name in policies, reports and the attack suite.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Its group.
            pub fn group(self) -> Group {
                match self { $(Self::$variant => Group::$group,)* }
            }

            /// What is done where the policy says nothing.
            pub fn usual(self) -> Actions {
                match self { $(Self::$variant => Actions($actions),)* }
            }
        }
    };
}

detectors! {
    /// A process is traced, or its memory read or written as a tracer may.
    PtraceAttach = "ptrace.attach", Ptrace, BREACH;
    /// Maps, environment, descriptors or namespaces of a process are looked at. Tools do that: it is refused, no more.
    PtraceInspect = "ptrace.inspect", Ptrace, REFUSED;
    /// A labelled process asks a stranger to trace it.
    PtraceTraceme = "ptrace.traceme", Ptrace, BREACH;
    /// Guest memory is opened, or used by a descriptor from before.
    MemoryOpen = "memory.open", Memory, BREACH;
    /// Guest memory is mapped.
    MemoryMap = "memory.map", Memory, BREACH;
    /// A descriptor of guest memory is received.
    MemoryReceive = "memory.receive", Memory, BREACH;
    /// A probe is set into a program or the kernel.
    MemoryProbe = "memory.probe", Memory, BREACH;
    /// A guarded file is opened for writing, or written.
    FileWrite = "file.write", Files, BREACH;
    /// A secret file is opened.
    FileRead = "file.read", Files, BREACH;
    /// A guarded file is removed, renamed, replaced or linked.
    FileName = "file.name", Files, BREACH;
    /// A guarded folder gets or loses an entry.
    FileEntry = "file.entry", Files, BREACH;
    /// Length, mode, owner, times or extended attributes change.
    FileAttribute = "file.attribute", Files, BREACH;
    /// Something is mounted over a guarded place, or unmounted below it.
    FileMount = "file.mount", Files, BREACH;
    /// The device below a guarded file is opened for writing.
    FileDevice = "file.device", Files, BREACH;
    /// A kernel module is loaded.
    ModuleLoad = "module.load", Modules, BREACH;
    /// The kernel wants a module by itself. Any user can cause that: it is refused, no more.
    ModuleRequest = "module.request", Modules, REFUSED;
    /// A kernel module is gone.
    ModuleUnload = "module.unload", Modules, SEEN;
    /// A BPF program of a kind that sees or changes the kernel is loaded.
    BpfLoad = "bpf.load", Bpf, BREACH;
    /// A map, program or link of the monitor is taken.
    BpfObject = "bpf.object", Bpf, BREACH;
    /// A signal is sent to an instance.
    SignalInstance = "signal.instance", Signals, BREACH;
    /// A process of an instance is moved to another cgroup.
    CgroupMove = "cgroup.move", Signals, SEEN;
    /// An instance is frozen.
    CgroupFreeze = "cgroup.freeze", Signals, SEEN;
    /// A signal is sent to agent or monitor.
    SignalSelf = "signal.self", Own, BREACH;
    /// Scheduling of a guarded process is changed.
    SelfSchedule = "self.schedule", Own, BREACH;
    /// A kernel setting that would blind the monitor is changed.
    SelfSetting = "self.setting", Own, BREACH;
    /// A process of the monitor ended.
    SelfExit = "self.exit", Own, SEEN;
    /// A descriptor by which an instance's page faults are answered is received or used.
    MemoryFault = "memory.fault", Memory, BREACH;
    /// A guarded device is opened.
    DeviceOpen = "device.open", Devices, BREACH;
    /// A node of a guarded device is made.
    DeviceNode = "device.node", Devices, BREACH;
    /// A guarded device is used, mapped or received by a descriptor from before.
    DeviceUse = "device.use", Devices, BREACH;
    /// Somebody reaches who listens on a guarded socket.
    SocketConnect = "socket.connect", Sockets, BREACH;
    /// A PCI device is taken from its driver, reset, removed or written, or an IOMMU group changed.
    HardwareSetting = "hardware.setting", Hardware, BREACH;
    /// A namespace of an instance is opened.
    NamespaceEnter = "namespace.enter", Namespaces, BREACH;
    /// The network is configured inside an instance's namespace.
    NetworkConfigure = "network.configure", Namespaces, BREACH;
    /// Another kernel is loaded, to be started from this one.
    KernelReplace = "kernel.replace", System, BREACH;
    /// The node is switched off by somebody else than the first process: it is refused, no more.
    SystemReboot = "system.reboot", System, REFUSED;
    /// The kernel's emergency keys are pressed, or armed.
    SystemSysrq = "system.sysrq", System, BREACH;
    /// The clock is set. Services that keep the time correct its speed, which stays theirs.
    ClockSet = "clock.set", System, REFUSED;
}

impl Detector {
    /// The one with this number.
    pub fn numbered(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }

    /// The one with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|detector| detector.name() == name)
    }

    /// Its number in the maps.
    pub fn number(self) -> u32 {
        self as u32
    }
}

impl fmt::Display for Detector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_number_detectors_in_the_same_order() {
        let text = include_str!("../bpf/maps.h");
        let list = text.split("enum detector {").nth(1).unwrap().split('}').next().unwrap();
        let names = list.split(',').map(|line| line.split('=').next().unwrap().trim()).filter(|name| !name.is_empty());
        let camel =
            |name: &str| name.split('_').map(|word| format!("{}{}", &word[..1], word[1..].to_lowercase())).collect::<String>();
        let programs: Vec<String> = names.map(camel).collect();
        let ours: Vec<String> = Detector::ALL.iter().map(|one| format!("{one:?}")).chain(["Detectors".to_owned()]).collect();
        assert_eq!(programs, ours);
    }

    #[test]
    fn what_cannot_be_refused_is_not_promised_to_be() {
        for detector in Detector::ALL {
            let words = detector.usual().words();
            assert_eq!(Actions::from_iter(words.clone()), detector.usual());
            assert!(words.contains(&Action::Note), "{detector} would go unnoticed");
        }
    }
}
