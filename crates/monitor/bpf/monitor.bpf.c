/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The monitor's programs: one object, so that all groups share labels, policy and counters.
 *
 * Each hook first asks whether its object is labelled: everything else on the machine passes after one look-up. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
#include "maps.h"
#include "decide.h"
#include "groups/settings.h"
#include "groups/devices.h"
#include "groups/labels.h"
#include "groups/ptrace.h"
#include "groups/memory.h"
#include "groups/files.h"
#include "groups/modules.h"
#include "groups/bpf.h"
#include "groups/signals.h"
#include "groups/sockets.h"
#include "groups/namespaces.h"
#include "groups/system.h"
#include "groups/observe.h"

char LICENSE[] SEC("license") = "GPL";
