//! What attacks gave.

use burn::tensor::{Bool, Tensor, TensorData};

use super::case::Run;

/// How an example came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// The unperturbed input reaches the goal already: nothing was tried, the input comes back as it was.
    AlreadyReached,
    /// An input that reaches the goal was found.
    Broken,
    /// None was found. That is no proof that there is none.
    Standing,
    /// The model gave logits that are no numbers, at the unperturbed input or on the way. The input comes back as it was.
    NotFinite,
    /// The engine was told to stop before the attack was through with the example.
    Unfinished,
}

/// One example's result.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// How it came out.
    pub status: Status,
    /// `‖x − x₀‖` of the input handed back, in the threat's norm.
    pub distance: f64,
    /// Logits of the input handed back.
    pub logits: Vec<f32>,
    /// Logits of the unperturbed input.
    pub clean: Vec<f32>,
    /// The attack's loss there, where the search was for the worst; else the goal's margin.
    pub loss: f64,
    /// Gradient evaluations spent on the example.
    pub gradients: u64,
    /// Evaluations of logits, those with a gradient and the one of the unperturbed input included.
    pub queries: u64,
    /// Gradients that were zero in every element: a sign of masking.
    pub zero_gradients: u64,
    /// The run that gave the input.
    pub run: Run,
}

/// What an attack gave, example by example in the order of the inputs.
#[derive(Clone, Debug)]
pub struct Attacked<const D: usize> {
    /// For each example the success found, or else the point that came nearest to one; inside ball and box always.
    pub inputs: Tensor<D>,
    /// How each example came out.
    pub outcomes: Vec<Outcome>,
}

impl<const D: usize> Attacked<D> {
    /// Which examples reach the goal, those that did so from the start included: shape `[examples]`.
    pub fn broken(&self) -> Tensor<1, Bool> {
        let reached: Vec<bool> = self.outcomes.iter().map(Outcome::reached).collect();
        let count = reached.len();
        Tensor::from_data(TensorData::new(reached, [count]), &self.inputs.device())
    }

    /// How many examples still stand; those with logits that are no numbers count as standing nowhere.
    pub fn standing(&self) -> usize {
        self.count(Status::Standing) + self.count(Status::Unfinished)
    }

    /// Share of examples that still stand, of all: the accuracy under this attack for untargeted goals. `NaN` of none.
    pub fn robust_accuracy(&self) -> f64 {
        self.standing() as f64 / self.outcomes.len() as f64
    }

    /// How many examples have a status.
    pub fn count(&self, status: Status) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.status == status).count()
    }

    /// Gradient evaluations of all examples.
    pub fn gradients(&self) -> u64 {
        self.outcomes.iter().map(|outcome| outcome.gradients).sum()
    }

    /// Evaluations of logits of all examples.
    pub fn queries(&self) -> u64 {
        self.outcomes.iter().map(|outcome| outcome.queries).sum()
    }
}

impl Outcome {
    /// Whether the input handed back reaches the goal.
    pub fn reached(&self) -> bool {
        matches!(self.status, Status::AlreadyReached | Status::Broken)
    }
}
