//! The error type of this crate.

/// A result whose error is [`Error`] unless said otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
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
    /// A tensor that does not fit the others.
    #[error("{what} has shape {actual:?}, expected {expected}")]
    Shape {
        /// The tensor.
        what: &'static str,
        /// Its shape.
        actual: Vec<usize>,
        /// What would fit, in words.
        expected: String,
    },
    /// A label that is no class.
    #[error("{what} of example {example} is {label}, the model has {classes} classes")]
    Label {
        /// Which labels.
        what: &'static str,
        /// Row of the batch.
        example: usize,
        /// The label.
        label: i64,
        /// Number of classes.
        classes: usize,
    },
    /// A loss or an attack that needs more classes than the model has.
    #[error("{what} needs at least {needed} classes, the model has {classes}")]
    TooFewClasses {
        /// The loss or the attack.
        what: &'static str,
        /// Classes it needs.
        needed: usize,
        /// Classes there are.
        classes: usize,
    },
    /// An input that is outside the model's bounds, or no number.
    #[error("element {element} of example {example} is {value}, outside of [{low}, {high}]")]
    OutOfBounds {
        /// Row of the batch.
        example: usize,
        /// Place in the example, row-major.
        element: usize,
        /// The value.
        value: f64,
        /// Lower bound of the model's inputs.
        low: f64,
        /// Upper bound of the model's inputs.
        high: f64,
    },
    /// An element type that is not handled.
    #[error("{what} are {actual}, expected {expected}")]
    ElementType {
        /// Which tensor.
        what: &'static str,
        /// Its element type.
        actual: String,
        /// What is handled.
        expected: &'static str,
    },
    /// An attack that cannot do what is asked.
    #[error("{attack} does not support {what}, it supports {supported}")]
    Unsupported {
        /// The attack.
        attack: String,
        /// What was asked for.
        what: String,
        /// What it can do.
        supported: &'static str,
    },
    /// A certificate and an attack that cannot both be right.
    #[error("example {example} is certified, and {attack} broke it: the model, the certificate or the attack is wrong")]
    Contradiction {
        /// Row of the batch.
        example: usize,
        /// The attack.
        attack: String,
    },
    /// An error of the core.
    #[error(transparent)]
    Core(#[from] core_tensor::Error),
    /// A batch without examples.
    #[error("{what} needs at least one example")]
    EmptyBatch {
        /// What was asked for.
        what: &'static str,
    },
    /// A norm that a method has no rule for.
    #[error("{what} is not defined for {norm:?}")]
    UnsupportedNorm {
        /// The method.
        what: &'static str,
        /// The norm.
        norm: crate::Norm,
    },
    /// An operation, a threat or an element type that certificates have no bound for.
    #[error("no bound through {operation}: {reason}")]
    NoBound {
        /// The operation, as in `Activation(Softmax)`.
        operation: String,
        /// Why.
        reason: String,
    },
    /// A file of data that is not there or is not what it should be.
    #[error("{}: {problem}", path.display())]
    Data {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it, and where to get it.
        problem: String,
    },
    /// A word that cannot be used.
    #[error("the word {word:?}: {problem}")]
    Word {
        /// The word.
        word: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A caption that cannot be asked for.
    #[error("the caption {caption:?} of image {example} {problem}")]
    Caption {
        /// Row of the batch.
        example: usize,
        /// The caption.
        caption: String,
        /// What is wrong with it.
        problem: String,
    },
}
