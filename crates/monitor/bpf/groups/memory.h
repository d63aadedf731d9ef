/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Guest memory by ways other than tracing: its file passed on or mapped, and probes, which read memory by way of a program's inode. */

SEC("lsm/mmap_file")
int BPF_PROG(memory_map, struct file *file, unsigned long reqprot, unsigned long prot, unsigned long flags)
{
	if (!file)
		return 0;
	return on_file(file->f_inode, GUARD_MEMORY, MEMORY_MAP);
}

SEC("lsm/file_receive")
int BPF_PROG(memory_receive, struct file *file)
{
	return on_file(file->f_inode, GUARD_MEMORY, MEMORY_RECEIVE);
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
