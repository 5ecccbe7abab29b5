//! Everything that can go wrong in `lab`, one line of text each.

use std::io;
use std::path::{Path, PathBuf};

/// Result of everything fallible in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. Its text is one line that names the file or flag, the field, the value and what is allowed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that is needed cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or folder cannot be written.
    #[error("{}: cannot be written: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A recipe is not TOML.
    #[error("{origin}, line {line}: not valid TOML: {problem}")]
    Syntax {
        /// The recipe file.
        origin: String,
        /// Line, from 1.
        line: usize,
        /// What the parser found.
        problem: String,
    },
    /// A recipe has a field that does not exist.
    #[error("{origin}: unknown field {field} (known here: {known})")]
    UnknownField {
        /// The recipe file or flag.
        origin: String,
        /// Name with its section, such as `train.epochs`.
        field: String,
        /// The names that exist at this place.
        known: String,
    },
    /// A setting has the wrong type or lies outside its range.
    #[error("{origin}: {field} = {value}: expected {expected}")]
    Value {
        /// The recipe file or flag.
        origin: String,
        /// Name with its section, such as `train.epochs`.
        field: String,
        /// The value as given.
        value: String,
        /// What is allowed.
        expected: String,
    },
    /// Two settings that have no meaning together.
    #[error("{origin}: {one} with {other}: {why}")]
    Contradiction {
        /// The recipe file.
        origin: String,
        /// One setting.
        one: String,
        /// The other.
        other: String,
        /// Why they have no meaning together, and what to take instead.
        why: String,
    },
    /// Data that lacks a file.
    #[error("{what}: none of {looked_for} found; {remedy}")]
    MissingData {
        /// Which part of which data set.
        what: String,
        /// The files looked for.
        looked_for: String,
        /// Where to get them and how to name them.
        remedy: String,
    },
    /// A data file whose content is not what it should be.
    #[error("{origin}: {problem}")]
    Data {
        /// The file.
        origin: String,
        /// The field of the file, the value found and the value expected.
        problem: String,
    },
    /// A run folder that cannot be used in the way asked for.
    #[error("{}: {problem}", path.display())]
    Run {
        /// The folder or the file in it.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The compute device that was asked for is not there.
    #[error("{0}")]
    Device(String),
    /// It was asked to stop before it was done.
    #[error("interrupted: nothing was written")]
    Interrupted,
    /// The computation itself failed.
    #[error(transparent)]
    Compute(#[from] core_tensor::Error),
}

impl From<mixed_precision::Error> for Error {
    fn from(error: mixed_precision::Error) -> Self {
        Self::Compute(error.into())
    }
}

impl From<adversarial::Error> for Error {
    fn from(error: adversarial::Error) -> Self {
        match error {
            adversarial::Error::Core(error) => Self::Compute(error),
            adversarial::Error::Data { path, problem } => Self::Data { origin: path.display().to_string(), problem },
            other => Self::Compute(core_tensor::Error::transform("adversarial", other)),
        }
    }
}

impl From<bilevel::Error> for Error {
    fn from(error: bilevel::Error) -> Self {
        Self::Compute(match error {
            bilevel::Error::Core(error) => error,
            other => core_tensor::Error::transform("bilevel", other),
        })
    }
}

impl From<multitask::Error> for Error {
    fn from(error: multitask::Error) -> Self {
        Self::Compute(match error {
            multitask::Error::Core(error) => error,
            other => core_tensor::Error::transform("multitask", other),
        })
    }
}

impl From<multitask::ModelError> for Error {
    fn from(error: multitask::ModelError) -> Self {
        Self::Compute(match error {
            multitask::ModelError::Core(error) => error,
            other => core_tensor::Error::transform("multitask", other),
        })
    }
}

impl Error {
    pub(crate) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Read { path: path.to_owned(), source }
    }

    pub(crate) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Write { path: path.to_owned(), source }
    }

    pub(crate) fn run(path: &Path, problem: impl Into<String>) -> Self {
        Self::Run { path: path.to_owned(), problem: problem.into() }
    }

    /// The exit status of the program: 2 for bad input, 1 for a computation that failed, 130 for an interruption.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Compute(core_tensor::Error::File { .. } | core_tensor::Error::State { .. }) => 2,
            Self::Compute(_) => 1,
            Self::Interrupted => 130,
            _ => 2,
        }
    }
}
