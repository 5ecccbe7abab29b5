//! What can go wrong when a function is recorded or a program run.

/// Why a function could not be recorded or a program not run.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// The function read a computed value on the host, so what it does depends on data and no recording stands for it.
    #[error(
        "the recorded function reads the value of `{operation}` ({path}); data-dependent control flow cannot be recorded: \
         keep it out of the function, or use `central_difference` on an eager gradient"
    )]
    DataDependent {
        /// The operation whose result was read, as in `NumericFloat(Sum)`.
        operation: String,
        /// Where it stands: the parameters whose values it reads, directly or through other operations.
        path: String,
    },
    /// The function panicked while it was recorded; usually shapes or devices that do not fit.
    #[error("the recorded function panicked: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// The function used a tensor that is neither in the point, nor in the batch, nor a visible parameter.
    #[error(
        "the recorded function uses a tensor from outside (captured by the closure, or in a `#[module(skip)]` field); \
         hand it in with the batch: {message}"
    )]
    ForeignTensor {
        /// What the backend said.
        message: String,
    },
    /// An operation that no executor knows, such as quantisation or a collective.
    #[error("operation `{operation}` ({path}) cannot be executed by a program")]
    NotExecutable {
        /// The operation, as in `Float(Quantize)`.
        operation: String,
        /// Where it stands: the parameters whose values it reads, directly or through other operations.
        path: String,
    },
    /// An operation on the way from the point to the gradient that has no tangent rule.
    #[error(
        "operation `{operation}` ({path}) has no tangent rule, so exact second derivatives stop there; \
         `central_difference` on the gradient works without one"
    )]
    NoTangentRule {
        /// The operation, as in `Module(CtcLoss)`.
        operation: String,
        /// Where it stands: the parameters whose values it reads, directly or through other operations.
        path: String,
    },
    /// Samples of a batch that influence each other, or are not known not to.
    #[error(
        "operation `{operation}` ({path}) mixes the samples of a batch, or has no rule that keeps them apart; the result must be \
         one loss a sample; `jacobian` gives the samples' gradients without such rules, one backward pass each"
    )]
    SamplesMixed {
        /// The operation, as in `NumericFloat(MeanDim)`.
        operation: String,
        /// Where it stands: the parameters whose values it reads, directly or through other operations.
        path: String,
    },
    /// A backend's kernel panicked while the program ran.
    #[error("a kernel panicked while the program ran: {message}")]
    Execution {
        /// The panic's message.
        message: String,
    },
    /// A call that needs a loss met a function with several outputs.
    #[error("`{call}` needs a function with one output, but this one has {outputs}; use `vjp` or `jacobian`")]
    NotScalar {
        /// The method called.
        call: &'static str,
        /// Number of outputs of the function.
        outputs: usize,
    },
    /// Wrong number of elements in a cotangent.
    #[error("cotangent {index} has {found} elements, but the function has {expected} outputs")]
    Cotangent {
        /// Which cotangent.
        index: usize,
        /// Its number of elements.
        found: usize,
        /// Number of outputs of the function.
        expected: usize,
    },
    /// The result is not a tensor that came out of the given point and batch.
    #[error("the recorded function must return a tensor computed on the recording device from its arguments: {detail}")]
    ForeignResult {
        /// What the backend said.
        detail: String,
    },
    /// Point, batch and direction are not all on one device.
    #[error("{what} is on {found}, but the point is on {expected}; move it with `to_device`")]
    Device {
        /// Which input.
        what: String,
        /// Its device.
        found: String,
        /// The device of the point's first leaf.
        expected: String,
    },
    /// Autocast to a type that the device lacks and that cannot be emulated there.
    #[error("{device} has no {dtype}, and emulation runs on the host backends (flex, ndarray)")]
    Unsupported {
        /// The 16-bit type.
        dtype: String,
        /// The device.
        device: String,
    },
    /// A finite-difference step that is zero, negative or not a number.
    #[error("step is {step}, but must be > 0 and finite")]
    Step {
        /// The step given.
        step: f64,
    },
}
