/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Tracing and looking into labelled processes. The kernel asks here for ptrace(2), /proc/PID/{mem,maps,environ,fd,root,...},
 * process_vm_readv(2), process_vm_writev(2), pidfd_getfd(2), kcmp(2) and others. */

#define PTRACE_MODE_ATTACH 2
#define PTRACE_MODE_NOAUDIT 4

#define CAP_SYS_ADMIN 21
#define CAP_PERFMON 38

static __always_inline void forget_refusal(struct task_struct *task)
{
	struct refusal *kept = bpf_task_storage_get(&refusals, task, 0, 0);

	if (kept)
		kept->next = NO_QUESTION;
}

/* From 6.15 on a refusal here is not the last word about maps, environment and the like: the kernel then asks for a capability that root has. */
static __always_inline int refuse_look(struct task_struct *task, int ret)
{
	struct refusal *kept;

	if (!ret)
		return 0;
	kept = bpf_task_storage_get(&refusals, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (kept) {
		kept->call = call_of(task);
		kept->next = ASKS_PERFMON;
	} else {
		/* What it then may open it shall not read. */
		bpf_send_signal(SIGKILL);
	}
	return -EPERM;
}

/* The capability that the kernel asks for right after a refusal, in the same call: first the one, then the other. */
static __always_inline int on_look(struct task_struct *task, int capability)
{
	struct refusal *kept = bpf_task_storage_get(&refusals, task, 0, 0);
	__u32 next;

	if (!kept || kept->next == NO_QUESTION)
		return 0;
	next = kept->next;
	kept->next = NO_QUESTION;
	if (kept->call != (__u64)call_of(task))
		return 0;
	if (next == ASKS_PERFMON && capability == CAP_PERFMON)
		kept->next = ASKS_ADMIN;
	else if (next != ASKS_ADMIN || capability != CAP_SYS_ADMIN)
		return 0;
	return -EPERM;
}

SEC("lsm/ptrace_access_check")
int BPF_PROG(ptrace_access, struct task_struct *child, unsigned int mode)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct label of = label_of(child), by;

	forget_refusal(task);
	if (of.role == ROLE_STRANGER)
		return 0;
	by = subject();
	if (may(by, of.role, of.instance))
		return 0;
	/* `ps` asks this way for what it can do without: it gets none, and nobody is told. */
	if (mode & PTRACE_MODE_NOAUDIT)
		return refuse_look(task, -EPERM);
	if (mode & PTRACE_MODE_ATTACH)
		return violation(PTRACE_ATTACH, by, of, child->tgid);
	return refuse_look(task, violation(PTRACE_INSPECT, by, of, child->tgid));
}

SEC("lsm/ptrace_traceme")
int BPF_PROG(ptrace_traceme, struct task_struct *parent)
{
	struct label of = subject();

	if (of.role == ROLE_STRANGER || may(label_of(parent), of.role, of.instance))
		return 0;
	return violation(PTRACE_TRACEME, label_of(parent), of, parent->tgid);
}
