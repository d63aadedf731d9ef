/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Labels of tasks: how they are handed on, and how they end. */

SEC("lsm/task_alloc")
int BPF_PROG(label_inherit, struct task_struct *task, unsigned long flags)
{
	struct label by = subject(), *label;

	if (by.role == ROLE_STRANGER)
		return 0;
	label = bpf_task_storage_get(&tasks, task, &by, BPF_LOCAL_STORAGE_GET_F_CREATE);
	/* A child without its label would be a gap: then no child. */
	return label ? 0 : -EPERM;
}

SEC("lsm/bprm_committed_creds")
int BPF_PROG(label_end, struct linux_binprm *bprm)
{
	struct file_label *program;

	if (subject().role == ROLE_STRANGER)
		return 0;
	program = file_label(bprm->file->f_inode);
	if (!program || !(program->guard & GUARD_KEEPS))
		bpf_task_storage_delete(&tasks, bpf_get_current_task_btf());
	return 0;
}

/* The monitor's end, however it comes about, is a breach that is on record before anybody can act on it. */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(self_exit, struct task_struct *task)
{
	struct label by = label_of(task);
	struct state *now = state();

	if (by.role == ROLE_MONITOR && task->pid == task->tgid && now && now->sealed)
		observed(SELF_EXIT, NO_OBJECT, by, task->tgid);
	return 0;
}
