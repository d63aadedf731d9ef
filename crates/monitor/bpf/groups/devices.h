/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Guarded character devices, by number: however the node is called and whenever it was opened. */

#define FMODE_READ 1
#define FMODE_WRITE 2
#define S_IFMT 0170000
#define S_IFBLK 0060000
#define S_IFCHR 0020000
#define ALL_MINORS 0xfffff
#define PF_KTHREAD 0x200000

/* `near` is an inode to go with the report. */
static __always_inline int on_character(struct inode *near, __u32 number, __u32 detector)
{
	__u32 key = number;
	struct task_struct *task;
	struct label by;

	if (!bpf_map_lookup_elem(&characters, &key)) {
		key |= ALL_MINORS;
		if (!bpf_map_lookup_elem(&characters, &key))
			return 0;
	}
	by = subject();
	if (by.role == ROLE_MONITOR || by.role == ROLE_AGENT || by.role == ROLE_INSTANCE)
		return 0;
	/* The kernel makes the nodes of new devices by itself. */
	task = bpf_get_current_task_btf();
	if (task->flags & PF_KTHREAD)
		return 0;
	return violation(detector, by, NO_OBJECT, number);
}

#define ANON_INODE_FS_MAGIC 0x09041934
#define FAULTS "[userfaultfd]"

/* A descriptor by which an instance's page faults are answered, in the hands of somebody else. */
static __always_inline int on_fault(struct inode *inode)
{
	struct label *of, by;

	if (inode->i_sb->s_magic != ANON_INODE_FS_MAGIC)
		return 0;
	of = bpf_inode_storage_get(&faults, inode, 0, 0);
	if (!of)
		return 0;
	by = subject();
	return may(by, of->role, of->instance) ? 0 : violation(MEMORY_FAULT, by, *of, 0);
}

static __always_inline int on_used(struct file *file)
{
	struct inode *inode = file->f_inode;

	return (inode->i_mode & S_IFMT) == S_IFCHR ? on_character(inode, inode->i_rdev, DEVICE_USE) : on_fault(inode);
}

SEC("lsm/file_ioctl")
int BPF_PROG(device_control, struct file *file, unsigned int command, unsigned long argument)
{
	return on_used(file);
}

/* Newer kernels ask apart for callers of 32 bits. */
SEC("?lsm/file_ioctl_compat")
int BPF_PROG(device_control_compat, struct file *file, unsigned int command, unsigned long argument)
{
	return on_used(file);
}
