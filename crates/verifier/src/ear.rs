//! Attestation results as EAR tokens (JWT, CWT), with AR4SI trust vectors.
