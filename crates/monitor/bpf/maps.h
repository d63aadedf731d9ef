/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What kernel and user space share. The Rust side is src/kernel/layout.rs; a test compares the two. */
#pragma once

/* Who a task is. Children inherit it; it goes when the task executes a program that does not keep it. */
enum role {
	ROLE_STRANGER = 0,
	ROLE_MONITOR = 1,
	ROLE_AGENT = 2,
	ROLE_INSTANCE = 3,
	/* Belongs to the monitor and has no rights: what it tries is denied and counted apart. */
	ROLE_CANARY = 4,
};

struct label {
	__u32 role;
	__u32 instance;
};

/* What is guarded about a file or folder. */
enum guard {
	GUARD_WRITE = 1 << 0,	/* contents and attributes */
	GUARD_READ = 1 << 1,	/* opening it at all */
	GUARD_NAME = 1 << 2,	/* its own name: unlink, rename, link, mount over */
	GUARD_ENTRIES = 1 << 3, /* of a folder: what is in it */
	GUARD_MEMORY = 1 << 4,	/* guest memory: opening is a breach of its own kind */
	GUARD_KEEPS = 1 << 5,	/* executing it keeps a task's label */
	GUARD_CONNECT = 1 << 6, /* of a socket: reaching who listens there */
	GUARD_ENTER = 1 << 7,	/* of a namespace: opening it */
};

struct file_key {
	__u64 inode;
	__u32 device;
	__u32 reserved;
};

struct file_label {
	__u32 guard;
	__u32 owner; /* enum role */
	__u32 instance;
	__u32 reserved;
};

/* Ids of detectors; the names are in src/detector.rs. */
enum detector {
	PTRACE_ATTACH = 0,
	PTRACE_INSPECT,
	PTRACE_TRACEME,
	MEMORY_OPEN,
	MEMORY_MAP,
	MEMORY_RECEIVE,
	MEMORY_PROBE,
	FILE_WRITE,
	FILE_READ,
	FILE_NAME,
	FILE_ENTRY,
	FILE_ATTRIBUTE,
	FILE_MOUNT,
	FILE_DEVICE,
	MODULE_LOAD,
	MODULE_REQUEST,
	MODULE_UNLOAD,
	BPF_LOAD,
	BPF_OBJECT,
	SIGNAL_INSTANCE,
	CGROUP_MOVE,
	CGROUP_FREEZE,
	SIGNAL_SELF,
	SELF_SCHEDULE,
	SELF_SETTING,
	SELF_EXIT,
	MEMORY_FAULT,
	DEVICE_OPEN,
	DEVICE_NODE,
	DEVICE_USE,
	SOCKET_CONNECT,
	HARDWARE_SETTING,
	NAMESPACE_ENTER,
	NETWORK_CONFIGURE,
	KERNEL_REPLACE,
	SYSTEM_REBOOT,
	SYSTEM_SYSRQ,
	CLOCK_SET,
	DETECTORS,
};

/* What the policy says about a detector. */
enum action {
	ACTION_DENY = 1 << 0,
	ACTION_NOTE = 1 << 1,  /* counted and reported */
	ACTION_TRIP = 1 << 2,  /* ends the instances */
	ACTION_KILL = 1 << 3,  /* ends the offender */
};

struct violation {
	__u64 at_ns; /* since boot */
	__u32 detector;
	__u32 denied;
	__u32 pid;
	__u32 tgid;
	__u32 subject_role;
	__u32 subject_instance;
	__u32 object_role;
	__u32 object_instance;
	__u64 detail; /* by detector: target's pid, inode, command, program type */
	char comm[16];
};

struct count {
	__u64 seen;
	__u64 denied;
	__u64 canary;
	__u64 lost; /* events that did not fit the ring: the counters and `first` have them all the same */
};

struct state {
	__u64 tripped_at_ns; /* 0: not */
	__u32 sealed;	     /* modules and foreign BPF are refused from then on */
	__u32 uprobe_type;   /* of perf events, as sysfs says */
	__u32 kprobe_type;
	__u32 reserved;
	__u64 foreign_bpf; /* bit N: others may load programs of type N */
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct label);
} tasks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct file_key);
	__type(value, struct file_label);
} files SEC(".maps");

/* How many labelled files have an inode number that ends so: for nearly every other file on the machine, one look here is all. */
#define FILTER_SLOTS 65536

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FILTER_SLOTS);
	__type(key, __u32);
	__type(value, __u32);
} filter SEC(".maps");

/* Devices (super blocks) whose mounts stay: those of our pins and of guarded files. Value: 1 is bpffs of ours. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u32);
} devices SEC(".maps");

/* Guarded character devices: number, or a whole major with all bits of the minor. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u32);
} characters SEC(".maps");

/* Number of a network namespace -> instance. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u32);
} networks SEC(".maps");

/* Which instances are in a guarded namespace: several may share one. */
struct member {
	__u32 number;
	__u32 instance;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct member);
	__type(value, __u32);
} members SEC(".maps");

/* Whose page faults a descriptor answers: it sees and makes all memory of that instance. Gone with the descriptor. */
struct {
	__uint(type, BPF_MAP_TYPE_INODE_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct label);
} faults SEC(".maps");

/* That a task was refused a look at a labelled process, in its system call of that number, and which question about it the kernel asks next. */
enum next_question {
	NO_QUESTION = 0,
	ASKS_PERFMON = 1,
	ASKS_ADMIN = 2,
};

struct refusal {
	__u64 call;
	__u32 next;
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct refusal);
} refusals SEC(".maps");

/* cgroup id -> instance. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u32);
} cgroups SEC(".maps");

/* Ids of our own maps (kind 0), programs (1) and links (2). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 512);
	__type(key, __u64);
	__type(value, __u32);
} own SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DETECTORS);
	__type(key, __u32);
	__type(value, __u32);
} policy SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct state);
} states SEC(".maps");

/* Until when the worker has promised to be heard of again, by the clock that stands still while the machine sleeps; 0: no instance depends on
 * it. A map of its own: the worker writes it without a look at the state, which programs write. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} deadlines SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DETECTORS);
	__type(key, __u32);
	__type(value, struct count);
} counts SEC(".maps");

/* The first violation per detector since the last reset: no flood can push it out. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DETECTORS);
	__type(key, __u32);
	__type(value, struct violation);
} first SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");
