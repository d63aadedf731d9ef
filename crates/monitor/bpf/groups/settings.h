/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Kernel settings that would blind or disarm the monitor. Their entries in procfs are made by the kernel: wherever it is mounted, and
 * whatever is mounted over it, these names are theirs. */

#define PROC_SUPER_MAGIC 0x9fa0
#define NAME_BYTES 28

static __always_inline bool is(const char *name, const char *want, int length)
{
	for (int at = 0; at < length; at++)
		if (name[at] != want[at])
			return false;
	return true;
}

#define IS(name, literal) is(name, literal, sizeof(literal))

SEC("lsm/file_open")
int BPF_PROG(self_setting, struct file *file)
{
	char name[NAME_BYTES] = {}, folder[NAME_BYTES] = {};
	struct dentry *entry;
	struct state *now;
	struct label by;

	if (!(file->f_mode & FMODE_WRITE) || file->f_inode->i_sb->s_magic != PROC_SUPER_MAGIC)
		return 0;
	now = state();
	if (!now || !now->sealed)
		return 0;
	entry = file->f_path.dentry;
	bpf_probe_read_kernel_str(name, sizeof(name), entry->d_name.name);
	bpf_probe_read_kernel_str(folder, sizeof(folder), entry->d_parent->d_name.name);
	if (!IS(folder, "kernel"))
		return 0;
	if (!IS(name, "ftrace_enabled") && !IS(name, "core_pattern") && !IS(name, "modprobe") &&
	    !IS(name, "kexec_load_disabled") && !IS(name, "unprivileged_bpf_disabled"))
		return 0;
	by = subject();
	if (by.role == ROLE_MONITOR || by.role == ROLE_AGENT)
		return 0;
	return violation(SELF_SETTING, by, NO_OBJECT, file->f_inode->i_ino);
}
