//! AMD SEV-SNP attestation reports.
