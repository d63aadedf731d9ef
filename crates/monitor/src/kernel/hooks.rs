//! Which hooks the running kernel has, by its own types.

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

/// (program, hook, group). An LSM hook unless it begins with `tp_btf/`.
const HOOKS: &[(&str, &str, Group)] = &[
    ("label_inherit", "task_alloc", Group::Labels),
    ("label_end", "bprm_committed_creds", Group::Labels),
    ("ptrace_access", "ptrace_access_check", Group::Ptrace),
    ("ptrace_traceme", "ptrace_traceme", Group::Ptrace),
    ("memory_map", "mmap_file", Group::Memory),
    ("memory_receive", "file_receive", Group::Memory),
    ("memory_probe", "perf_event_open", Group::Memory),
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
    ("self_exit", "tp_btf/sched_process_exit", Group::Own),
    ("self_scheduler", "task_setscheduler", Group::Own),
    ("self_nice", "task_setnice", Group::Own),
    ("self_setting", "file_open", Group::Own),
];

/// (program, hook, group, the program that it stands in for).
const STAND_INS: &[(&str, &str, Group, &str)] = &[
    ("label_fork", "tp_btf/sched_process_fork", Group::Labels, "label_inherit"),
    ("label_exec", "tp_btf/sched_process_exec", Group::Labels, "label_end"),
    ("signal_seen", "tp_btf/signal_generate", Group::Signals, "signal_send"),
    ("module_seen", "tp_btf/module_load", Group::Modules, "module_file"),
];

const SETATTR_DENTRY: &str = "file_setattr_dentry";
const SETATTR_IDMAP: &str = "file_setattr_idmap";

/// The hooks, with what this kernel has of them and `mode` uses.
pub fn of_this_kernel(mode: Mode) -> libbpf_rs::Result<Vec<Hook>> {
    let btf = Btf::from_vmlinux()?;
    let hooks = HOOKS.iter().map(|(program, name, group)| hook(&btf, program, name, *group));
    let stand_ins = STAND_INS.iter().map(|(program, name, group, other)| Hook {
        instead_of: Some(other),
        needed: false,
        ..hook(&btf, program, name, *group)
    });
    let mut all: Vec<Hook> = hooks.chain(stand_ins).collect();
    for hook in all.iter_mut().filter(|hook| mode == Mode::Observe && !hook.name.starts_with("tp_btf/")) {
        hook.there = false;
    }
    Ok(all)
}

fn hook(btf: &Btf<'_>, program: &str, name: &str, group: Group) -> Hook {
    let shape_fits = match program {
        SETATTR_DENTRY => parameters(btf, "bpf_lsm_inode_setattr") == Some(2),
        SETATTR_IDMAP => parameters(btf, "bpf_lsm_inode_setattr") == Some(3),
        _ => true,
    };
    // Newer kernels do not tell this hook which kind of event is opened: there it can decide nothing.
    let told_enough = program != "memory_probe" || parameters(btf, "bpf_lsm_perf_event_open") == Some(2);
    let there = match name.strip_prefix("tp_btf/") {
        Some(tracepoint) => btf.type_by_name::<types::Typedef<'_>>(&format!("btf_trace_{tracepoint}")).is_some(),
        None => parameters(btf, &format!("bpf_lsm_{name}")).is_some(),
    };
    let there = there && shape_fits && told_enough;
    Hook { program: program.to_owned(), name: name.to_owned(), group, there, instead_of: None, needed: shape_fits }
}

/// How many parameters a function of the kernel has.
fn parameters(btf: &Btf<'_>, function: &str) -> Option<usize> {
    let function = btf.type_by_name::<types::Func<'_>>(function)?;
    let proto = types::FuncProto::try_from(function.next_type()?).ok()?;
    Some(proto.iter().count())
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
            include_str!("../../bpf/groups/observe.h"),
        );
        let lines: Vec<&str> = groups.lines().collect();
        let sections: Vec<(&str, &str)> = lines
            .windows(2)
            .filter_map(|pair| Some((pair[0].strip_prefix("SEC(\"")?.trim_start_matches('?').strip_suffix("\")")?, pair[1])))
            .collect();
        let stand_ins = STAND_INS.iter().map(|(program, hook, ..)| (program, hook));
        let all: Vec<_> = HOOKS.iter().map(|(program, hook, _)| (program, hook)).chain(stand_ins).collect();
        assert_eq!(sections.len(), all.len());
        for (program, hook) in all {
            let section = if hook.contains('/') { (*hook).to_owned() } else { format!("lsm/{hook}") };
            let found = sections.iter().any(|(name, line)| {
                *name == section && (line.contains(&format!("({program},")) || line.contains(&format!(" {program}(")))
            });
            assert!(found, "{program} is not in a section {section}");
        }
    }
}
