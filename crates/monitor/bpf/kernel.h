/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Types of the kernel, with only the fields that are read: libbpf relocates them against the running kernel's BTF. */
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u32 __wsum;
typedef __u16 __sum16;
typedef unsigned int fmode_t;
typedef __u32 dev_t;
typedef unsigned short umode_t;
typedef __u32 u32;
typedef __u64 u64;
typedef _Bool bool;

#define true 1
#define false 0

enum {
	BPF_ANY = 0,
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_MAP_TYPE_INODE_STORAGE = 28,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
	BPF_F_NO_PREALLOC = 1,
	BPF_LOCAL_STORAGE_GET_F_CREATE = 1,
	BPF_RB_FORCE_WAKEUP = 2,
};

/* Commands of bpf(2). */
enum {
	BPF_PROG_LOAD = 5,
	BPF_LINK_GET_FD_BY_ID = 30,
	BPF_LINK_DETACH = 34,
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct super_block {
	dev_t s_dev;
	unsigned long s_magic;
};

struct inode {
	umode_t i_mode;
	struct super_block *i_sb;
	unsigned long i_ino;
	dev_t i_rdev;
};

struct qstr {
	const unsigned char *name;
};

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
	struct super_block *d_sb;
};

struct vfsmount {
	struct dentry *mnt_root;
	struct super_block *mnt_sb;
};

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct file {
	fmode_t f_mode;
	struct path f_path;
	struct inode *f_inode;
};

struct kernfs_node {
	u64 id;
};

struct cgroup {
	struct kernfs_node *kn;
};

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

struct nsproxy {
	struct net *net_ns;
};

struct pt_regs {
	unsigned long orig_ax;
};

struct pid {
	unsigned int level;
};

struct task_struct {
	unsigned int flags;
	int pid;
	int tgid;
	struct pid *thread_pid;
	struct nsproxy *nsproxy;
	struct task_struct *group_leader;
	char comm[16];
};

struct sock;

struct socket {
	struct sock *sk;
};

struct unix_sock {
	struct path path;
};

struct linux_binprm {
	struct file *file;
};

struct bpf_map {
	u32 id;
};

struct bpf_prog_aux {
	u32 id;
};

struct bpf_prog {
	struct bpf_prog_aux *aux;
};

struct perf_event_attr {
	__u32 type;
};

struct module {
	char name[56];
};

/* What the kernel reads and loads, by its own numbers: they move when the kernel learns of another kind. */
enum kernel_read_file_id {
	READING_MODULE = 2,
	READING_KEXEC_IMAGE = 3,
	READING_KEXEC_INITRAMFS = 4,
};

enum kernel_load_data_id {
	LOADING_MODULE = 2,
	LOADING_KEXEC_IMAGE = 3,
};

#pragma clang attribute pop

/* Opaque here. */
struct cred;
struct iattr;
struct mnt_idmap;
struct user_namespace;
struct kernel_siginfo;
struct vm_area_struct;
struct timespec64;
struct timezone;

/* The part of `union bpf_attr` that commands with an id, a type or a descriptor begin with. */
union bpf_attr {
	struct {
		__u32 prog_type;
	};
	struct {
		__u32 first;
	};
};
