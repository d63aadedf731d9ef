//! Revocation lists of chips, keys and images.
