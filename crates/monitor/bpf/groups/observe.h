/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* For kernels on which nothing can be refused: labels are kept and acts are seen. Loaded in place of hooks that this kernel does not take. */

SEC("?tp_btf/sched_process_fork")
int BPF_PROG(label_fork, struct task_struct *parent, struct task_struct *child)
{
	struct label by = label_of(parent);

	if (by.role != ROLE_STRANGER)
		bpf_task_storage_get(&tasks, child, &by, BPF_LOCAL_STORAGE_GET_F_CREATE);
	return 0;
}

SEC("?tp_btf/sched_process_exec")
int BPF_PROG(label_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	struct file_label *program;

	if (label_of(task).role == ROLE_STRANGER)
		return 0;
	program = file_label(bprm->file->f_inode);
	if (!program || !(program->guard & GUARD_KEEPS))
		bpf_task_storage_delete(&tasks, task);
	return 0;
}

/* Stands for the kernel's own signals. Newer kernels say nothing about those of kill(2), and all of them nothing about those of cgroup.kill:
 * that is 0. */
#define KERNELS_OWN 1
#define PF_EXITING 0x4

SEC("?tp_btf/signal_generate")
int BPF_PROG(signal_seen, int signal, struct kernel_siginfo *info, struct task_struct *target, int group, int result)
{
	struct label of = label_of(target), by;
	struct task_struct *sender = bpf_get_current_task_btf();

	if (of.role == ROLE_STRANGER || (__u64)info == KERNELS_OWN)
		return 0;
	/* The word to its parent is the kernel's, too; from some kernel on, its label is gone by then. */
	if (sender->flags & PF_EXITING)
		return 0;
	by = subject();
	if (may(by, of.role, of.instance) || (sender->tgid == 1 && by.role == ROLE_STRANGER) || sender->tgid == target->tgid)
		return 0;
	observed(of.role == ROLE_INSTANCE ? SIGNAL_INSTANCE : SIGNAL_SELF, by, of, (__u64)signal << 32 | target->tgid);
	return 0;
}

SEC("?tp_btf/module_load")
int BPF_PROG(module_seen, struct module *module)
{
	struct state *now = state();
	struct label by = subject();

	if (now && now->sealed && by.role != ROLE_MONITOR && by.role != ROLE_AGENT)
		observed(MODULE_LOAD, by, NO_OBJECT, 0);
	return 0;
}
