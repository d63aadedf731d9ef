/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Kernel modules, and other kernels, once the node is sealed. */

#define READS(id, what) ((id) == (int)bpf_core_enum_value(enum kernel_read_file_id, what))
#define LOADS(id, what) ((id) == (int)bpf_core_enum_value(enum kernel_load_data_id, what))

SEC("lsm/kernel_read_file")
int BPF_PROG(module_file, struct file *file, int id, bool contents)
{
	if (READS(id, READING_KEXEC_IMAGE) || READS(id, READING_KEXEC_INITRAMFS))
		return on_node(KERNEL_REPLACE, 1);
	return READS(id, READING_MODULE) ? on_node(MODULE_LOAD, 1) : 0;
}

SEC("lsm/kernel_load_data")
int BPF_PROG(module_blob, int id, bool contents)
{
	if (LOADS(id, LOADING_KEXEC_IMAGE))
		return on_node(KERNEL_REPLACE, 2);
	return LOADS(id, LOADING_MODULE) ? on_node(MODULE_LOAD, 2) : 0;
}

SEC("lsm/kernel_module_request")
int BPF_PROG(module_request, char *name)
{
	return on_node(MODULE_REQUEST, 0);
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
