//! Gradient clipping for Burn.

#![forbid(unsafe_code)]
