//! Intel TDX quotes.
