/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Signals to labelled processes, what moves or freezes an instance's cgroup, and the monitor's place on the processors. */

SEC("lsm/task_kill")
int BPF_PROG(signal_send, struct task_struct *target, struct kernel_siginfo *info, int signal, const struct cred *cred)
{
	struct label of = label_of(target), by;
	struct task_struct *sender = bpf_get_current_task_btf();

	/* Whether a process is there is no secret. */
	if (of.role == ROLE_STRANGER || !signal)
		return 0;
	by = subject();
	/* The first process stops services; what follows from the monitor's end follows from this one, too. */
	if (may(by, of.role, of.instance) || (sender->tgid == 1 && by.role == ROLE_STRANGER))
		return 0;
	/* A process and its threads, and what it started. */
	if (sender->tgid == target->tgid)
		return 0;
	return violation(of.role == ROLE_INSTANCE ? SIGNAL_INSTANCE : SIGNAL_SELF, by, of, (__u64)signal << 32 | target->tgid);
}

SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(cgroup_move, struct cgroup *to, const char *path, struct task_struct *task, bool threads)
{
	struct label of = label_of(task), by;
	__u64 id = to->kn->id;
	__u32 *instance;

	if (of.role != ROLE_INSTANCE)
		return 0;
	by = subject();
	if (by.role == ROLE_MONITOR || by.role == ROLE_AGENT)
		return 0;
	instance = bpf_map_lookup_elem(&cgroups, &id);
	if (instance && *instance == of.instance)
		return 0;
	observed(CGROUP_MOVE, by, of, task->tgid);
	return 0;
}

SEC("tp_btf/cgroup_freeze")
int BPF_PROG(cgroup_freeze, struct cgroup *group, const char *path)
{
	__u64 id = group->kn->id;
	__u32 *instance = bpf_map_lookup_elem(&cgroups, &id);
	struct label by;

	if (!instance)
		return 0;
	by = subject();
	if (by.role == ROLE_MONITOR || by.role == ROLE_AGENT)
		return 0;
	observed(CGROUP_FREEZE, by, (struct label){ .role = ROLE_INSTANCE, .instance = *instance }, id);
	return 0;
}

/* The last resort, without user space: once the node has tripped, or the worker is not heard of any more, an instance's thread ends when it
 * next leaves a processor. Nothing is asked about anybody as long as neither is so. */
SEC("tp_btf/sched_switch")
int BPF_PROG(self_resort, bool preempted, struct task_struct *before, struct task_struct *after)
{
	__u32 zero = 0;
	__u64 *deadline = bpf_map_lookup_elem(&deadlines, &zero);
	struct state *now = state();

	if (!deadline || !now || !*deadline)
		return 0;
	if (!now->tripped_at_ns && bpf_ktime_get_ns() < *deadline)
		return 0;
	if (label_of(before).role == ROLE_INSTANCE)
		bpf_send_signal(SIGKILL);
	return 0;
}

static __always_inline int on_schedule(struct task_struct *target)
{
	struct label of = label_of(target), by;

	if (of.role == ROLE_STRANGER)
		return 0;
	by = subject();
	return may(by, of.role, of.instance) ? 0 : violation(SELF_SCHEDULE, by, of, target->tgid);
}

SEC("lsm/task_setscheduler")
int BPF_PROG(self_scheduler, struct task_struct *target)
{
	return on_schedule(target);
}

SEC("lsm/task_setnice")
int BPF_PROG(self_nice, struct task_struct *target, int nice)
{
	return on_schedule(target);
}
