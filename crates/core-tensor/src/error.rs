//! The one error type of this crate.
//!
//! Every variant names what is wrong: the leaf, the file or the parameter, the value found and the
//! value or bound expected. A non-finite gradient is not an error; it is a value to look at
//! ([`Tree::is_finite`](crate::Tree::is_finite)) or an outcome
//! ([`Outcome::Skipped`](crate::transform::Outcome::Skipped)).

use std::path::{Path, PathBuf};

use burn::tensor::DType;

/// A result whose error is [`Error`] unless said otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two leaves of one tree have the same path.
    #[error("leaf `{path}` appears twice; paths within a tree must differ")]
    DuplicateLeaf {
        /// Path of the repeated leaf.
        path: String,
    },
    /// A leaf is not made of floating-point numbers.
    #[error("leaf `{path}` has dtype {dtype:?}; a tree holds float leaves (f64, f32, f16, bf16)")]
    NotFloat {
        /// Path of the leaf.
        path: String,
        /// Its dtype.
        dtype: DType,
    },
    /// A leaf was asked for that is not there.
    #[error("leaf `{path}` is not in {place}")]
    UnknownLeaf {
        /// Path of the leaf.
        path: String,
        /// Where it was looked for.
        place: &'static str,
    },
    /// Two trees differ in the names or the number of their leaves.
    #[error(
        "trees differ at leaf {index}: {} on the left, {} on the right",
        describe(.left),
        describe(.right)
    )]
    Structure {
        /// Position of the first difference.
        index: usize,
        /// Path at that position in the left tree, `None` past its end.
        left: Option<String>,
        /// Path at that position in the right tree, `None` past its end.
        right: Option<String>,
    },
    /// Two leaves of one name differ in shape.
    #[error("leaf `{path}` has shape {left:?} on the left and {right:?} on the right")]
    Shape {
        /// Path of the leaf.
        path: String,
        /// Shape in the left (first) operand.
        left: Vec<usize>,
        /// Shape in the right (second) operand.
        right: Vec<usize>,
    },
    /// A leaf was asked for as a tensor of another rank.
    #[error("leaf `{path}` has rank {rank} (shape {shape:?}), asked for as rank {asked}")]
    Rank {
        /// Path of the leaf.
        path: String,
        /// Its rank.
        rank: usize,
        /// Its shape.
        shape: Vec<usize>,
        /// The rank asked for.
        asked: usize,
    },
    /// A leaf has a higher rank than Burn's modules and optimizers handle.
    #[error("leaf `{path}` has rank {rank}; at most {max} is supported")]
    RankLimit {
        /// Path of the leaf.
        path: String,
        /// Its rank.
        rank: usize,
        /// The highest rank supported.
        max: usize,
    },
    /// A leaf belongs to no module parameter.
    #[error("leaf `{path}` has no parameter id; only leaves that come from a module have one")]
    NoParamId {
        /// Path of the leaf.
        path: String,
    },
    /// A leaf is on another device than the first one.
    #[error("leaf `{path}` is on another device than the first leaf; move the tree to one device first")]
    Device {
        /// Path of the leaf.
        path: String,
    },
    /// A flat buffer has the wrong number of elements.
    #[error("{what} has {actual} elements, expected {expected}")]
    Length {
        /// What was measured.
        what: &'static str,
        /// Elements expected.
        expected: usize,
        /// Elements found.
        actual: usize,
    },
    /// A parameter is outside its range.
    #[error("{parameter} = {value} is out of range, expected {bound}")]
    Parameter {
        /// Name of the parameter.
        parameter: &'static str,
        /// The value given.
        value: f64,
        /// The range, in words.
        bound: &'static str,
    },
    /// A loss cannot be differentiated.
    #[error("the loss cannot be differentiated: {reason}")]
    Loss {
        /// Why.
        reason: String,
    },
    /// A saved state lacks an entry, or has one of another type.
    #[error("state entry `{entry}` is {found}, expected {expected}")]
    State {
        /// Name of the entry.
        entry: String,
        /// What is there.
        found: &'static str,
        /// What should be.
        expected: &'static str,
    },
    /// A file could not be read, written or understood.
    #[error("cannot {action} `{}`: {reason}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// `read` or `write`.
        action: &'static str,
        /// What went wrong.
        reason: String,
    },
    /// A function could not be recorded or a program not run.
    #[error(transparent)]
    Program(#[from] crate::program::ProgramError),
    /// A gradient transform failed with an error of its own.
    #[error("transform `{transform}` failed: {source}")]
    Transform {
        /// Name of the transform.
        transform: String,
        /// Its error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// Wrap the error of a gradient transform defined outside this crate.
    pub fn transform(
        transform: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Transform { transform: transform.into(), source: source.into() }
    }

    pub(crate) fn read(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::File { path: path.to_path_buf(), action: "read", reason: reason.to_string() }
    }

    pub(crate) fn write(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::File { path: path.to_path_buf(), action: "write", reason: reason.to_string() }
    }
}

fn describe(leaf: &Option<String>) -> String {
    match leaf {
        Some(path) => format!("`{path}`"),
        None => "nothing".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_leaf_values_and_bounds() {
        let structure = Error::Structure { index: 2, left: Some("a.weight".into()), right: None };
        assert_eq!(structure.to_string(), "trees differ at leaf 2: `a.weight` on the left, nothing on the right");
        let shape = Error::Shape { path: "w".into(), left: vec![2, 3], right: vec![3, 2] };
        assert_eq!(shape.to_string(), "leaf `w` has shape [2, 3] on the left and [3, 2] on the right");
        let parameter = Error::Parameter { parameter: "p", value: 0.5, bound: "1 <= p <= inf" };
        assert_eq!(parameter.to_string(), "p = 0.5 is out of range, expected 1 <= p <= inf");
        assert_eq!(Error::read(Path::new("x.bpk"), "no such file").to_string(), "cannot read `x.bpk`: no such file");
    }

    #[test]
    fn errors_cross_threads() {
        fn check<T: Send + Sync + 'static>() {}
        check::<Error>();
    }
}
