/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Other BPF programs, and the monitor's own objects by id, pin or descriptor. */

#define KIND_MAP 0
#define KIND_PROGRAM 1
#define KIND_LINK 2
#define OWN(kind, id) ((__u64)(kind) << 32 | (id))

static __always_inline int on_own(__u64 key)
{
	struct label by;

	if (!bpf_map_lookup_elem(&own, &key))
		return 0;
	by = subject();
	if (by.role == ROLE_MONITOR)
		return 0;
	return violation(BPF_OBJECT, by, (struct label){ .role = ROLE_MONITOR }, key);
}

SEC("lsm/bpf_map")
int BPF_PROG(bpf_own_map, struct bpf_map *map, fmode_t mode)
{
	return on_own(OWN(KIND_MAP, map->id));
}

SEC("lsm/bpf_prog")
int BPF_PROG(bpf_own_program, struct bpf_prog *program)
{
	return on_own(OWN(KIND_PROGRAM, program->aux->id));
}

/* `attr` is the kernel's copy: user space cannot change it after the check. */
SEC("lsm/bpf")
int BPF_PROG(bpf_command, int command, union bpf_attr *attr, unsigned int size)
{
	struct state *now = state();
	__u32 word = 0;
	struct label by;

	if (!now || !now->sealed || (command != BPF_PROG_LOAD && command != BPF_LINK_GET_FD_BY_ID))
		return 0;
	bpf_probe_read_kernel(&word, sizeof(word), attr);
	if (command == BPF_LINK_GET_FD_BY_ID)
		return on_own(OWN(KIND_LINK, word));
	if (word < 64 && now->foreign_bpf & 1ULL << word)
		return 0;
	by = subject();
	return by.role == ROLE_MONITOR ? 0 : violation(BPF_LOAD, by, NO_OBJECT, word);
}
