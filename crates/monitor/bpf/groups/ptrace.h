/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Tracing and looking into labelled processes. The kernel asks here for ptrace(2), /proc/PID/{mem,maps,environ,fd,root,...},
 * process_vm_readv(2), process_vm_writev(2), pidfd_getfd(2), kcmp(2) and others. */

#define PTRACE_MODE_ATTACH 2
#define PTRACE_MODE_NOAUDIT 4

SEC("lsm/ptrace_access_check")
int BPF_PROG(ptrace_access, struct task_struct *child, unsigned int mode)
{
	struct label of = label_of(child), by;

	if (of.role == ROLE_STRANGER)
		return 0;
	by = subject();
	if (may(by, of.role, of.instance))
		return 0;
	/* `ps` asks this way for what it can do without: it gets none, and nobody is told. */
	if (mode & PTRACE_MODE_NOAUDIT)
		return -EPERM;
	return violation(mode & PTRACE_MODE_ATTACH ? PTRACE_ATTACH : PTRACE_INSPECT, by, of, child->tgid);
}

SEC("lsm/ptrace_traceme")
int BPF_PROG(ptrace_traceme, struct task_struct *parent)
{
	struct label of = subject();

	if (of.role == ROLE_STRANGER || may(label_of(parent), of.role, of.instance))
		return 0;
	return violation(PTRACE_TRACEME, label_of(parent), of, parent->tgid);
}
