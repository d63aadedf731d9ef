/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Kernel modules, once the node is sealed. */

/* Of the kernel's lists of what it reads and loads. */
#define READING_MODULE 2
#define LOADING_MODULE 2

static __always_inline int on_module(__u32 detector, __u64 detail)
{
	struct state *now = state();
	struct label by;

	if (!now || !now->sealed)
		return 0;
	by = subject();
	return by.role == ROLE_MONITOR || by.role == ROLE_AGENT ? 0 : violation(detector, by, NO_OBJECT, detail);
}

SEC("lsm/kernel_read_file")
int BPF_PROG(module_file, struct file *file, int id, bool contents)
{
	return id == READING_MODULE ? on_module(MODULE_LOAD, 1) : 0;
}

SEC("lsm/kernel_load_data")
int BPF_PROG(module_blob, int id, bool contents)
{
	return id == LOADING_MODULE ? on_module(MODULE_LOAD, 2) : 0;
}

SEC("lsm/kernel_module_request")
int BPF_PROG(module_request, char *name)
{
	return on_module(MODULE_REQUEST, 0);
}

/* There is no hook that could refuse it. */
SEC("tp_btf/module_free")
int BPF_PROG(module_unload, struct module *module)
{
	struct state *now = state();
	struct label by = subject();

	if (now && now->sealed && by.role != ROLE_MONITOR && by.role != ROLE_AGENT)
		observed(MODULE_UNLOAD, by, NO_OBJECT, 0);
	return 0;
}
