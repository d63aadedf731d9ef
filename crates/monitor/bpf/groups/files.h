/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Guarded files and folders, by inode: their contents, attributes, names, what is mounted over them, the device below them. */

/* The block device below a guarded file. */
static __always_inline int on_device(struct inode *inode)
{
	__u32 device = inode->i_rdev;
	struct label by;

	if ((inode->i_mode & S_IFMT) != S_IFBLK || !bpf_map_lookup_elem(&devices, &device))
		return 0;
	by = subject();
	return by.role == ROLE_MONITOR ? 0 : violation(FILE_DEVICE, by, NO_OBJECT, device);
}

SEC("lsm/file_open")
int BPF_PROG(file_open, struct file *file)
{
	struct inode *inode = file->f_inode;
	struct file_label *label;
	fmode_t mode = file->f_mode;
	struct label by;
	int ret;

	if ((inode->i_mode & S_IFMT) == S_IFCHR)
		return on_character(inode, inode->i_rdev, DEVICE_OPEN);
	label = file_label(inode);
	if (!label) {
		if (!(mode & FMODE_WRITE))
			return 0;
		ret = on_device(inode);
		FIRST(ret);
		return on_kernels_file(file);
	}
	if (label->guard & GUARD_ENTER)
		return on_namespace(inode);
	by = subject();
	if (may(by, label->owner, label->instance))
		return 0;
	if (label->guard & GUARD_MEMORY)
		return violation(MEMORY_OPEN, by, owner_of(label), inode->i_ino);
	if (label->guard & GUARD_WRITE && mode & FMODE_WRITE)
		return violation(FILE_WRITE, by, owner_of(label), inode->i_ino);
	if (label->guard & GUARD_READ)
		return violation(FILE_READ, by, owner_of(label), inode->i_ino);
	return 0;
}

/* A descriptor from before the label, or from elsewhere, is checked at its use. */
SEC("lsm/file_permission")
int BPF_PROG(file_use, struct file *file, int mask)
{
	struct inode *inode = file->f_inode;
	int ret;

	if ((inode->i_mode & S_IFMT) == S_IFCHR)
		return on_character(inode, inode->i_rdev, DEVICE_USE);
	if (!(mask & 2 /* MAY_WRITE */)) {
		ret = on_file(inode, GUARD_MEMORY, MEMORY_OPEN);
		FIRST(ret);
		return on_fault(inode);
	}
	ret = on_file(inode, GUARD_WRITE | GUARD_MEMORY, FILE_WRITE);
	FIRST(ret);
	return inode->i_sb->s_magic == SYSFS_MAGIC ? on_hardware(file) : 0;
}

static __always_inline int on_name(struct dentry *entry)
{
	return on_dentry(entry, GUARD_NAME, FILE_NAME);
}

/* An entry of a folder goes, comes or changes. */
static __always_inline int on_entry(struct inode *folder, struct dentry *entry)
{
	int ret = on_file(folder, GUARD_ENTRIES, FILE_ENTRY);

	FIRST(ret);
	return on_name(entry);
}

SEC("lsm/inode_unlink")
int BPF_PROG(file_unlink, struct inode *folder, struct dentry *entry)
{
	return on_entry(folder, entry);
}

SEC("lsm/inode_rmdir")
int BPF_PROG(file_rmdir, struct inode *folder, struct dentry *entry)
{
	return on_entry(folder, entry);
}

SEC("lsm/inode_rename")
int BPF_PROG(file_rename, struct inode *from, struct dentry *old, struct inode *to, struct dentry *new)
{
	int ret = on_entry(from, old);

	FIRST(ret);
	return on_entry(to, new);
}

SEC("lsm/inode_link")
int BPF_PROG(file_link, struct dentry *old, struct inode *folder, struct dentry *new)
{
	int ret = on_file(folder, GUARD_ENTRIES, FILE_ENTRY);

	FIRST(ret);
	return on_file(old->d_inode, GUARD_NAME, FILE_NAME);
}

SEC("lsm/inode_create")
int BPF_PROG(file_create, struct inode *folder, struct dentry *entry, umode_t mode)
{
	return on_file(folder, GUARD_ENTRIES, FILE_ENTRY);
}

SEC("lsm/inode_symlink")
int BPF_PROG(file_symlink, struct inode *folder, struct dentry *entry, const char *name)
{
	return on_file(folder, GUARD_ENTRIES, FILE_ENTRY);
}

SEC("lsm/inode_mkdir")
int BPF_PROG(file_mkdir, struct inode *folder, struct dentry *entry, umode_t mode)
{
	return on_file(folder, GUARD_ENTRIES, FILE_ENTRY);
}

SEC("lsm/inode_mknod")
int BPF_PROG(file_mknod, struct inode *folder, struct dentry *entry, umode_t mode, dev_t dev)
{
	int ret = on_file(folder, GUARD_ENTRIES, FILE_ENTRY);

	FIRST(ret);
	return (mode & S_IFMT) == S_IFCHR ? on_character(folder, dev, DEVICE_NODE) : 0;
}

/* Of these two the one is loaded whose parameters are the running kernel's. */
SEC("?lsm/inode_setattr")
int BPF_PROG(file_setattr_dentry, struct dentry *entry, struct iattr *attr)
{
	return on_file(entry->d_inode, GUARD_WRITE | GUARD_MEMORY, FILE_ATTRIBUTE);
}

SEC("?lsm/inode_setattr")
int BPF_PROG(file_setattr_idmap, struct mnt_idmap *idmap, struct dentry *entry, struct iattr *attr)
{
	return on_file(entry->d_inode, GUARD_WRITE | GUARD_MEMORY, FILE_ATTRIBUTE);
}

SEC("lsm/inode_setxattr")
int BPF_PROG(file_setxattr, struct user_namespace *ns, struct dentry *entry, const char *name)
{
	return on_file(entry->d_inode, GUARD_WRITE, FILE_ATTRIBUTE);
}

SEC("lsm/inode_removexattr")
int BPF_PROG(file_removexattr, struct user_namespace *ns, struct dentry *entry, const char *name)
{
	return on_file(entry->d_inode, GUARD_WRITE, FILE_ATTRIBUTE);
}

SEC("lsm/sb_mount")
int BPF_PROG(file_mount, const char *from, struct path *path, const char *type, unsigned long flags, void *data)
{
	return on_file(path->dentry->d_inode, GUARD_NAME | GUARD_ENTRIES, FILE_MOUNT);
}

SEC("lsm/move_mount")
int BPF_PROG(file_move_mount, struct path *from, struct path *to)
{
	return on_file(to->dentry->d_inode, GUARD_NAME | GUARD_ENTRIES, FILE_MOUNT);
}

SEC("lsm/sb_umount")
int BPF_PROG(file_umount, struct vfsmount *mount, int flags)
{
	__u32 device = mount->mnt_sb->s_dev;
	struct label by;

	if (!bpf_map_lookup_elem(&devices, &device))
		return 0;
	by = subject();
	return by.role == ROLE_MONITOR ? 0 : violation(FILE_MOUNT, by, NO_OBJECT, device);
}
