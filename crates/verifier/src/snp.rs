//! AMD SEV-SNP: attestation reports of a guest, and the launch measurement that they must have.
