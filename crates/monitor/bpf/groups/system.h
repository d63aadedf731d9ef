/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The node's clock. (Kernels are replaced in modules.h, reboots are in namespaces.h, keys of the kernel in settings.h.) */

SEC("lsm/settime")
int BPF_PROG(system_clock, const struct timespec64 *time, const struct timezone *zone)
{
	return first_process(subject()) ? 0 : on_node(CLOCK_SET, 0);
}
