//! Evidence of NVIDIA GPUs and NVSwitches: SPDM measurements.
