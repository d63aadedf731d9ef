//! Appraisal policies in Rego over typed claims.
