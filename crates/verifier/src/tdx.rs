//! Intel TDX: quotes of a trust domain, by Intel's DCAP steps.
