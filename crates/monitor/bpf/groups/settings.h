/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Files that the kernel makes: settings that would blind or disarm the monitor, what sets probes, and what takes devices from their drivers.
 * Wherever they are mounted, and whatever is mounted over them, these names are theirs. */

#define PROC_SUPER_MAGIC 0x9fa0
#define SYSFS_MAGIC 0x62656572
#define TRACEFS_MAGIC 0x74726163
#define NAME_BYTES 28

static __always_inline bool is(const char *name, const char *want, int length)
{
	for (int at = 0; at < length; at++)
		if (name[at] != want[at])
			return false;
	return true;
}

#define IS(name, literal) is(name, literal, sizeof(literal))

/* The entry's name, and the entry above it. */
static __always_inline struct dentry *name_of(struct dentry *entry, char *name)
{
	struct dentry *above = 0;
	const unsigned char *text = 0;

	bpf_core_read(&text, sizeof(text), &entry->d_name.name);
	bpf_probe_read_kernel_str(name, NAME_BYTES, text);
	bpf_core_read(&above, sizeof(above), &entry->d_parent);
	return above;
}

static __always_inline int on_proc(struct file *file)
{
	char name[NAME_BYTES] = {}, folder[NAME_BYTES] = {};

	name_of(name_of(file->f_path.dentry, name), folder);
	if (IS(folder, "/"))
		return IS(name, "sysrq-trigger") ? on_node(SYSTEM_SYSRQ, 0) : 0;
	if (IS(folder, "yama"))
		return IS(name, "ptrace_scope") ? on_node(SELF_SETTING, file->f_inode->i_ino) : 0;
	if (!IS(folder, "kernel"))
		return 0;
	if (IS(name, "sysrq"))
		return on_node(SYSTEM_SYSRQ, 1);
	if (!IS(name, "ftrace_enabled") && !IS(name, "core_pattern") && !IS(name, "modprobe") &&
	    !IS(name, "kexec_load_disabled") && !IS(name, "unprivileged_bpf_disabled"))
		return 0;
	return on_node(SELF_SETTING, file->f_inode->i_ino);
}

/* The other way to a probe: by text, not by perf_event_open(2). */
static __always_inline int on_tracefs(struct file *file)
{
	char name[NAME_BYTES] = {};

	name_of(file->f_path.dentry, name);
	if (!IS(name, "uprobe_events") && !IS(name, "kprobe_events") && !IS(name, "dynamic_events"))
		return 0;
	return on_node(MEMORY_PROBE, file->f_inode->i_ino);
}

/* 0000:00:00.0 */
static __always_inline bool is_pci_address(const char *name)
{
	return name[4] == ':' && name[7] == ':' && name[10] == '.';
}

/* What gives a PCI device to another driver, resets or removes it, writes its configuration and registers, or changes what its IOMMU group
 * is allowed. */
static __always_inline int on_hardware(struct file *file)
{
	char name[NAME_BYTES] = {}, one[NAME_BYTES] = {}, two[NAME_BYTES] = {}, three[NAME_BYTES] = {};
	bool guarded;

	name_of(name_of(name_of(name_of(file->f_path.dentry, name), one), two), three);
	guarded = is_pci_address(one) || IS(two, "iommu_groups") || (IS(one, "pci") && IS(two, "bus")) ||
		  (IS(two, "drivers") && IS(three, "pci"));
	return guarded ? on_node(HARDWARE_SETTING, file->f_inode->i_ino) : 0;
}

/* A file without a label, opened for writing. */
static __always_inline int on_kernels_file(struct file *file)
{
	unsigned long magic = file->f_inode->i_sb->s_magic;

	if (magic == PROC_SUPER_MAGIC)
		return on_proc(file);
	if (magic == SYSFS_MAGIC)
		return on_hardware(file);
	return magic == TRACEFS_MAGIC ? on_tracefs(file) : 0;
}
