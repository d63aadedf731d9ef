//! The files that a node's kernel measured (IMA).
