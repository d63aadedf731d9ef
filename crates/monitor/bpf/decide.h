/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Who may do what to whom, and what happens when somebody else tries. */
#pragma once

#define EPERM 1
#define SIGKILL 9
#define NO_OBJECT ((struct label){0})

static __always_inline struct state *state(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&states, &zero);
}

static __always_inline struct label label_of(struct task_struct *task)
{
	struct label *label = bpf_task_storage_get(&tasks, task, 0, 0);

	/* A thread that was there before its process was labelled. */
	if (!label)
		label = bpf_task_storage_get(&tasks, task->group_leader, 0, 0);
	return label ? *label : (struct label){0};
}

static __always_inline struct label subject(void)
{
	return label_of(bpf_get_current_task_btf());
}

static __always_inline bool maybe_labelled(unsigned long inode)
{
	__u32 slot = inode % FILTER_SLOTS, *files = bpf_map_lookup_elem(&filter, &slot);

	return !files || *files;
}

static __always_inline struct file_label *file_label(struct inode *inode)
{
	struct file_key key = {};

	if (!inode || !maybe_labelled(inode->i_ino))
		return 0;
	key.inode = inode->i_ino;
	key.device = inode->i_sb->s_dev;
	return bpf_map_lookup_elem(&files, &key);
}

/* The monitor may do everything; the agent what is not the monitor's; an instance what is its own. */
static __always_inline bool may(struct label by, __u32 owner, __u32 instance)
{
	if (by.role == ROLE_MONITOR)
		return true;
	if (by.role == ROLE_AGENT)
		return owner == ROLE_AGENT || owner == ROLE_INSTANCE;
	return by.role == ROLE_INSTANCE && owner == ROLE_INSTANCE && by.instance == instance;
}

/* Whether an instance is in the namespace with this number. */
static __always_inline bool is_in(struct label by, __u32 number)
{
	struct member key = { .number = number, .instance = by.instance };

	return by.role == ROLE_INSTANCE && bpf_map_lookup_elem(&members, &key);
}

static __always_inline void record(__u32 detector, struct label by, struct label of, __u64 detail, __u32 denied, bool trip)
{
	struct violation v = {}, *kept;
	struct count *count = bpf_map_lookup_elem(&counts, &detector);
	struct state *now = state();
	__u64 pid = bpf_get_current_pid_tgid();

	v.at_ns = bpf_ktime_get_boot_ns();
	if (trip && now && !now->tripped_at_ns)
		__sync_val_compare_and_swap(&now->tripped_at_ns, 0, v.at_ns);
	v.detector = detector;
	v.denied = denied;
	v.pid = (__u32)pid;
	v.tgid = pid >> 32;
	v.subject_role = by.role;
	v.subject_instance = by.instance;
	v.object_role = of.role;
	v.object_instance = of.instance;
	v.detail = detail;
	bpf_get_current_comm(v.comm, sizeof(v.comm));
	kept = bpf_map_lookup_elem(&first, &detector);
	if (kept && __sync_val_compare_and_swap(&kept->at_ns, 0, v.at_ns) == 0) {
		v.at_ns = kept->at_ns;
		*kept = v;
	}
	if (bpf_ringbuf_output(&events, &v, sizeof(v), BPF_RB_FORCE_WAKEUP) && count)
		count->lost++;
}

static __always_inline int judge(__u32 detector, struct label by, struct label of, __u64 detail, bool can_deny)
{
	__u32 *action = bpf_map_lookup_elem(&policy, &detector);
	struct count *count = bpf_map_lookup_elem(&counts, &detector);
	__u32 denied;
	int ret = 0;

	if (!action || !count)
		return -EPERM;
	denied = can_deny ? *action & ACTION_DENY : 0;
	if (by.role == ROLE_CANARY) {
		count->canary++;
		goto out;
	}
	count->seen++;
	if (denied)
		count->denied++;
	if (*action & (ACTION_NOTE | ACTION_TRIP))
		record(detector, by, of, detail, denied, *action & ACTION_TRIP);
	if (*action & ACTION_KILL && by.role == ROLE_STRANGER)
		bpf_send_signal(SIGKILL);
out:
	/* A branch, not arithmetic: from 6.12 on the verifier wants to see that nothing but these two comes back. */
	if (denied) {
		ret = -EPERM;
		barrier_var(ret);
	}
	return ret;
}

/* A forbidden act: what the hook returns. */
static __always_inline int violation(__u32 detector, struct label by, struct label of, __u64 detail)
{
	return judge(detector, by, of, detail, true);
}

/* A forbidden act that cannot be refused where it is seen. */
static __always_inline void observed(__u32 detector, struct label by, struct label of, __u64 detail)
{
	judge(detector, by, of, detail, false);
}

static __always_inline struct label owner_of(struct file_label *file)
{
	return (struct label){ .role = file->owner, .instance = file->instance };
}

/* An act on a labelled file that its guard forbids to strangers. */
static __always_inline int on_file(struct inode *inode, __u32 guard, __u32 detector)
{
	struct file_label *file = file_label(inode);
	struct label by;

	if (!file || !(file->guard & guard))
		return 0;
	by = subject();
	if (may(by, file->owner, file->instance))
		return 0;
	return violation(detector, by, owner_of(file), inode->i_ino);
}

/* A guarded namespace comes into somebody's hands. */
static __always_inline int on_namespace(struct inode *inode)
{
	struct file_label *file = file_label(inode);
	struct label by;

	if (!file || !(file->guard & GUARD_ENTER))
		return 0;
	by = subject();
	if (may(by, file->owner, file->instance) || is_in(by, inode->i_ino))
		return 0;
	return violation(NAMESPACE_ENTER, by, owner_of(file), inode->i_ino);
}

/* Services of the node itself, by the process that everything stems from. */
static __always_inline bool first_process(struct label by)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return task->tgid == 1 && by.role == ROLE_STRANGER;
}

/* The number of the system call that a task is in. */
static __always_inline long call_of(struct task_struct *task)
{
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(task);
	long number = 0;

	bpf_core_read(&number, sizeof(number), &regs->orig_ax);
	return number;
}

static __always_inline bool sealed(void)
{
	struct state *now = state();

	return now && now->sealed;
}

/* An act that concerns the node, not an object of somebody: once it is sealed, monitor and agent do it alone. */
static __always_inline int on_node(__u32 detector, __u64 detail)
{
	struct label by;

	if (!sealed())
		return 0;
	by = subject();
	return by.role == ROLE_MONITOR || by.role == ROLE_AGENT ? 0 : violation(detector, by, NO_OBJECT, detail);
}

/* The inode of an entry that may have none (the new name of a rename). From 6.12 on the verifier believes that an entry always has one and
 * leaves out the question, so the way there is read as plain memory. */
static __always_inline int on_dentry(struct dentry *entry, __u32 guard, __u32 detector)
{
	struct file_key key = {};
	struct super_block *sb = 0;
	struct file_label *file;
	struct inode *inode = 0;
	unsigned long number = 0;
	struct label by;

	bpf_core_read(&inode, sizeof(inode), &entry->d_inode);
	if (!inode)
		return 0;
	bpf_core_read(&number, sizeof(number), &inode->i_ino);
	if (!maybe_labelled(number))
		return 0;
	bpf_core_read(&sb, sizeof(sb), &inode->i_sb);
	bpf_core_read(&key.device, sizeof(key.device), &sb->s_dev);
	key.inode = number;
	file = bpf_map_lookup_elem(&files, &key);
	if (!file || !(file->guard & guard))
		return 0;
	by = subject();
	if (may(by, file->owner, file->instance))
		return 0;
	return violation(detector, by, owner_of(file), key.inode);
}

/* Of two checks the first refusal counts. (Between programs on one hook the kernel sees to that.) */
#define FIRST(ret) \
	if (ret) \
		return ret
