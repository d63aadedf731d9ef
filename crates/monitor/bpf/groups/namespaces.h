/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Namespaces of instances. Opening one is in files.h; this is for who was inside before, and what else is decided by a capability. */

#define CAP_NET_ADMIN 12
#define CAP_SYS_BOOT 22

/* Numbers of kexec_load(2) and kexec_file_load(2): hooks of their own say what those do. */
static __always_inline bool loads_a_kernel(struct task_struct *task)
{
	long number = call_of(task);

	return number == 246 || number == 320 || number == 283;
}

static __always_inline int on_network(struct task_struct *task)
{
	__u32 number = 0, *instance;
	struct label by;

	number = BPF_CORE_READ(task, nsproxy, net_ns, ns.inum);
	instance = bpf_map_lookup_elem(&networks, &number);
	if (!instance)
		return 0;
	by = subject();
	if (may(by, ROLE_INSTANCE, *instance) || is_in(by, number))
		return 0;
	return violation(NETWORK_CONFIGURE, by, (struct label){ .role = ROLE_INSTANCE, .instance = *instance }, number);
}

SEC("lsm/capable")
int BPF_PROG(namespace_capable, const struct cred *cred, struct user_namespace *ns, int capability, unsigned int options)
{
	struct task_struct *task = bpf_get_current_task_btf();
	int ret = on_look(task, capability);

	FIRST(ret);
	if (capability != CAP_NET_ADMIN && capability != CAP_SYS_BOOT)
		return 0;
	if (capability == CAP_NET_ADMIN)
		return on_network(task);
	/* Inside a PID namespace a reboot ends that namespace, no more. The first process is how a node is switched off lawfully. */
	if (task->tgid == 1 || BPF_CORE_READ(task, thread_pid, level) || loads_a_kernel(task))
		return 0;
	return on_node(SYSTEM_REBOOT, 0);
}
