//! NVIDIA GPUs and NVSwitches: measurements that a device signs for a nonce (SPDM).
