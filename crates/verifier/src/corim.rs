//! Reference values as CoRIM, in and out.
