/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Guest memory by ways other than tracing: its file passed on or mapped, and probes, which read memory by way of a program's inode. */

SEC("lsm/inode_init_security_anon")
int BPF_PROG(memory_fault, struct inode *inode, const struct qstr *name, const struct inode *context)
{
	char text[sizeof(FAULTS)] = {};
	const unsigned char *from = 0;
	struct label by = subject();

	if (by.role != ROLE_INSTANCE)
		return 0;
	bpf_core_read(&from, sizeof(from), &name->name);
	bpf_probe_read_kernel_str(text, sizeof(text), from);
	if (!IS(text, FAULTS))
		return 0;
	return bpf_inode_storage_get(&faults, inode, &by, BPF_LOCAL_STORAGE_GET_F_CREATE) ? 0 : -EPERM;
}

SEC("lsm/mmap_file")
int BPF_PROG(memory_map, struct file *file, unsigned long reqprot, unsigned long prot, unsigned long flags)
{
	struct inode *inode;

	if (!file)
		return 0;
	inode = file->f_inode;
	if ((inode->i_mode & S_IFMT) == S_IFCHR)
		return on_character(inode, inode->i_rdev, DEVICE_USE);
	return on_file(inode, GUARD_MEMORY, MEMORY_MAP);
}

SEC("lsm/file_receive")
int BPF_PROG(memory_receive, struct file *file)
{
	int ret = on_file(file->f_inode, GUARD_MEMORY, MEMORY_RECEIVE);

	FIRST(ret);
	ret = on_namespace(file->f_inode);
	FIRST(ret);
	return on_used(file);
}

SEC("lsm/perf_event_open")
int BPF_PROG(memory_probe, struct perf_event_attr *attr, int type)
{
	struct state *now = state();
	struct label by;

	if (!now || !now->sealed)
		return 0;
	if (attr->type != now->uprobe_type && attr->type != now->kprobe_type)
		return 0;
	by = subject();
	return by.role == ROLE_MONITOR ? 0 : violation(MEMORY_PROBE, by, NO_OBJECT, attr->type);
}
