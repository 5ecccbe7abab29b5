//! `lab attack`: one example of one's own under attack.
//!
//! Each kind of example is a module with its arguments and `run`, and a command of its own: `lab attack image`, `lab attack text`.

pub mod image;
pub mod text;
