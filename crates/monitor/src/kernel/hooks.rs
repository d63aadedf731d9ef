//! Which hooks the running kernel has, by its own types.

use std::collections::{BTreeMap, BTreeSet};

use libbpf_rs::btf::{Btf, types};

use crate::{config::Mode, detector::Group};

/// One program and its hook.
#[derive(Debug, Clone)]
pub struct Hook {
    /// The program's name.
    pub program: String,
    /// The hook's.
    pub name: String,
    /// The group that it serves.
    pub group: Group,
    /// Whether this kernel has the hook.
    pub there: bool,
    /// The program that it stands in for where the kernel does not take that one.
    pub instead_of: Option<&'static str>,
    /// Whether the group is incomplete without it. Of two programs for two shapes of one hook, only the fitting one is needed.
    pub needed: bool,
}

/// (program, hook, group); a program that serves several groups is there for each. An LSM hook unless it begins with `tp_btf/`.
const HOOKS: &[(&str, &str, Group)] = &[
    ("label_inherit", "task_alloc", Group::Labels),
    ("label_end", "bprm_committed_creds", Group::Labels),
    ("ptrace_access", "ptrace_access_check", Group::Ptrace),
    ("ptrace_traceme", "ptrace_traceme", Group::Ptrace),
    ("namespace_capable", "capable", Group::Ptrace),
    ("memory_map", "mmap_file", Group::Memory),
    ("memory_receive", "file_receive", Group::Memory),
    ("memory_probe", "perf_event_open", Group::Memory),
    ("memory_fault", "inode_init_security_anon", Group::Memory),
    ("file_open", "file_open", Group::Files),
    ("file_use", "file_permission", Group::Files),
    ("file_unlink", "inode_unlink", Group::Files),
    ("file_rmdir", "inode_rmdir", Group::Files),
    ("file_rename", "inode_rename", Group::Files),
    ("file_link", "inode_link", Group::Files),
    ("file_create", "inode_create", Group::Files),
    ("file_symlink", "inode_symlink", Group::Files),
    ("file_mkdir", "inode_mkdir", Group::Files),
    ("file_mknod", "inode_mknod", Group::Files),
    (SETATTR_DENTRY, "inode_setattr", Group::Files),
    (SETATTR_IDMAP, "inode_setattr", Group::Files),
    ("file_setxattr", "inode_setxattr", Group::Files),
    ("file_removexattr", "inode_removexattr", Group::Files),
    ("file_mount", "sb_mount", Group::Files),
    ("file_move_mount", "move_mount", Group::Files),
    ("file_umount", "sb_umount", Group::Files),
    ("module_file", "kernel_read_file", Group::Modules),
    ("module_blob", "kernel_load_data", Group::Modules),
    ("module_request", "kernel_module_request", Group::Modules),
    ("module_unload", "tp_btf/module_free", Group::Modules),
    ("bpf_own_map", "bpf_map", Group::Bpf),
    ("bpf_own_program", "bpf_prog", Group::Bpf),
    ("bpf_command", "bpf", Group::Bpf),
    ("signal_send", "task_kill", Group::Signals),
    ("cgroup_move", "tp_btf/cgroup_attach_task", Group::Signals),
    ("cgroup_freeze", "tp_btf/cgroup_freeze", Group::Signals),
    ("self_resort", "tp_btf/sched_switch", Group::Own),
    ("self_exit", "tp_btf/sched_process_exit", Group::Own),
    ("self_scheduler", "task_setscheduler", Group::Own),
    ("self_nice", "task_setnice", Group::Own),
    ("file_open", "file_open", Group::Own),
    ("file_open", "file_open", Group::Devices),
    ("device_control", "file_ioctl", Group::Devices),
    (CONTROL_COMPAT, "file_ioctl_compat", Group::Devices),
    ("file_mknod", "inode_mknod", Group::Devices),
    ("file_use", "file_permission", Group::Devices),
    ("socket_connect_peer", "unix_stream_connect", Group::Sockets),
    ("socket_send_peer", "unix_may_send", Group::Sockets),
    ("file_open", "file_open", Group::Hardware),
    ("file_use", "file_permission", Group::Hardware),
    ("file_open", "file_open", Group::Namespaces),
    ("namespace_capable", "capable", Group::Namespaces),
    ("module_file", "kernel_read_file", Group::System),
    ("module_blob", "kernel_load_data", Group::System),
    ("namespace_capable", "capable", Group::System),
    ("file_open", "file_open", Group::System),
    ("system_clock", "settime", Group::System),
];

/// (program, hook, group, the program that it stands in for).
const STAND_INS: &[(&str, &str, Group, &str)] = &[
    ("label_fork", "tp_btf/sched_process_fork", Group::Labels, "label_inherit"),
    ("label_exec", "tp_btf/sched_process_exec", Group::Labels, "label_end"),
    ("signal_seen", "tp_btf/signal_generate", Group::Signals, "signal_send"),
    ("module_seen", "tp_btf/module_load", Group::Modules, "module_file"),
];

/// Kernels without it ask `device_control`.
const CONTROL_COMPAT: &str = "device_control_compat";
const SETATTR_DENTRY: &str = "file_setattr_dentry";
const SETATTR_IDMAP: &str = "file_setattr_idmap";

/// The hooks, with what this kernel has of them and `mode` uses.
pub fn of_this_kernel(mode: Mode) -> libbpf_rs::Result<Vec<Hook>> {
    let types = Types::of_this_kernel()?;
    let hooks = HOOKS.iter().map(|(program, name, group)| hook(&types, program, name, *group));
    let stand_ins = STAND_INS.iter().map(|(program, name, group, other)| Hook {
        instead_of: Some(other),
        needed: false,
        ..hook(&types, program, name, *group)
    });
    let mut all: Vec<Hook> = hooks.chain(stand_ins).collect();
    for hook in all.iter_mut().filter(|hook| mode == Mode::Observe && !hook.name.starts_with("tp_btf/")) {
        hook.there = false;
    }
    Ok(all)
}

/// What the kernel says of its hooks: LSM hooks with the number of their parameters, and tracepoints. Each search by name would be a walk over
/// all of its types, a hundred thousand.
struct Types {
    parameters: BTreeMap<String, usize>,
    tracepoints: BTreeSet<String>,
}

impl Types {
    fn of_this_kernel() -> libbpf_rs::Result<Self> {
        let btf = Btf::from_vmlinux()?;
        let parameters = btf.type_by_kind::<types::Func<'_>>().filter_map(|function| {
            let name = function.name()?.to_str()?.strip_prefix("bpf_lsm_")?.to_owned();
            let proto = types::FuncProto::try_from(function.next_type()?).ok()?;
            Some((name, proto.iter().count()))
        });
        let tracepoints = btf
            .type_by_kind::<types::Typedef<'_>>()
            .filter_map(|one| Some(one.name()?.to_str()?.strip_prefix("btf_trace_")?.to_owned()));
        Ok(Self { parameters: parameters.collect(), tracepoints: tracepoints.collect() })
    }

    fn parameters(&self, hook: &str) -> Option<usize> {
        self.parameters.get(hook).copied()
    }
}

fn hook(types: &Types, program: &str, name: &str, group: Group) -> Hook {
    let shape_fits = match program {
        SETATTR_DENTRY => types.parameters("inode_setattr") == Some(2),
        SETATTR_IDMAP => types.parameters("inode_setattr") == Some(3),
        _ => true,
    };
    // Newer kernels do not tell this hook which kind of event is opened: there it can decide nothing.
    let told_enough = program != "memory_probe" || types.parameters("perf_event_open") == Some(2);
    let there = match name.strip_prefix("tp_btf/") {
        Some(tracepoint) => types.tracepoints.contains(tracepoint),
        None => types.parameters(name).is_some(),
    };
    let there = there && shape_fits && told_enough;
    Hook {
        program: program.to_owned(),
        name: name.to_owned(),
        group,
        there,
        instead_of: None,
        needed: shape_fits && (there || program != CONTROL_COMPAT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_has_a_hook_here_and_in_its_own_section() {
        let groups = concat!(
            include_str!("../../bpf/groups/labels.h"),
            include_str!("../../bpf/groups/ptrace.h"),
            include_str!("../../bpf/groups/memory.h"),
            include_str!("../../bpf/groups/files.h"),
            include_str!("../../bpf/groups/modules.h"),
            include_str!("../../bpf/groups/bpf.h"),
            include_str!("../../bpf/groups/signals.h"),
            include_str!("../../bpf/groups/settings.h"),
            include_str!("../../bpf/groups/devices.h"),
            include_str!("../../bpf/groups/sockets.h"),
            include_str!("../../bpf/groups/namespaces.h"),
            include_str!("../../bpf/groups/system.h"),
            include_str!("../../bpf/groups/observe.h"),
        );
        let lines: Vec<&str> = groups.lines().collect();
        let sections: Vec<(&str, &str)> = lines
            .windows(2)
            .filter_map(|pair| Some((pair[0].strip_prefix("SEC(\"")?.trim_start_matches('?').strip_suffix("\")")?, pair[1])))
            .collect();
        let stand_ins = STAND_INS.iter().map(|(program, hook, ..)| (program, hook));
        let all: Vec<_> = HOOKS.iter().map(|(program, hook, _)| (program, hook)).chain(stand_ins).collect();
        let programs: std::collections::BTreeSet<_> = all.iter().map(|(program, _)| *program).collect();
        assert_eq!(sections.len(), programs.len());
        for (program, hook) in all {
            let section = if hook.contains('/') { (*hook).to_owned() } else { format!("lsm/{hook}") };
            let found = sections.iter().any(|(name, line)| {
                *name == section && (line.contains(&format!("({program},")) || line.contains(&format!(" {program}(")))
            });
            assert!(found, "{program} is not in a section {section}");
        }
    }
}
