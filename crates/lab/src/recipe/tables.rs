//! The tables of a recipe, one struct a section, with their defaults.
//!
//! What a setting means and may be stands in [`FIELDS`](super::FIELDS).

use serde::{Deserialize, Serialize};

/// Section `[data]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataRecipe {
    /// The data set.
    pub name: DataName,
    /// Folder of the data files; empty: looked for.
    pub dir: String,
    /// Largest number of training examples used; 0: all.
    pub limit: usize,
    /// Share of the training examples held out for validation.
    pub validation: f64,
    /// CSV: rows of an image; 0: images are square.
    pub height: usize,
    /// CSV: columns of an image; 0: images are square.
    pub width: usize,
    /// CSV: label columns at the end of a line.
    pub labels: usize,
    /// CSV: grey value of full ink; 0: the largest of the training file.
    pub ink: u8,
}

/// A data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataName {
    /// The embedded UCI digits, 8 × 8 pixels.
    Digits,
    /// MNIST from IDX files, 28 × 28 pixels.
    Mnist,
    /// One's own images in IDX files named as MNIST's.
    Idx,
    /// One's own images, one a line.
    Csv,
    /// One's own images, a folder a class.
    Png,
}

impl DataName {
    /// The data set's name in prose.
    pub fn title(self) -> &'static str {
        match self {
            Self::Digits => "UCI digits",
            Self::Mnist => "MNIST",
            Self::Idx => "IDX files",
            Self::Csv => "CSV files",
            Self::Png => "PNG files",
        }
    }

    /// Whether its classes are the ten digits.
    pub fn is_digits(self) -> bool {
        matches!(self, Self::Digits | Self::Mnist)
    }
}

/// Section `[model]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelRecipe {
    /// The architecture.
    pub name: ModelName,
    /// Channels of the first convolution; the second has twice as many.
    pub channels: usize,
    /// Width of the hidden linear layers.
    pub hidden: usize,
    /// What follows each convolution or hidden layer before its ReLU.
    pub norm: LayerNorm,
}

/// An architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelName {
    /// Two convolutions with max-pooling, then two linear layers.
    Cnn,
    /// Three linear layers.
    Mlp,
}

/// Normalisation after the convolutions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerNorm {
    /// None.
    None,
    /// By the statistics of the batch.
    Batch,
    /// By those of a group of channels of one example.
    Group,
}

/// Section `[train]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainRecipe {
    /// Passes over the training set.
    pub epochs: u64,
    /// Examples a step.
    pub batch_size: usize,
    /// Seed of the initial weights and of the order of the examples.
    pub seed: u64,
    /// Decay of the moving average of the weights; 0: none is kept.
    pub ema: f64,
    /// What early stopping and the best checkpoint go by.
    pub metric: Metric,
    /// Epochs without a better metric after which training ends; 0: never.
    pub patience: u64,
    /// Which checkpoints are kept.
    pub keep: Keep,
}

/// A number that judges a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Share of the validation set that is classified correctly.
    Accuracy,
    /// Mean loss over the validation set.
    Loss,
    /// Accuracy under attack on the first validation examples.
    RobustAccuracy,
}

/// Which checkpoints are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// The last.
    Last,
    /// The last, and the one with the best metric.
    Best,
}

/// Section `[optimizer]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerRecipe {
    /// The update rule.
    pub name: OptimizerName,
    /// Learning rate.
    pub lr: f64,
    /// How the learning rate changes over the run.
    pub schedule: Schedule,
    /// Epochs over which the learning rate first grows from zero.
    pub warmup: u64,
    /// `step`: epochs between two changes.
    pub step_every: u64,
    /// `step`: what the learning rate is multiplied by.
    pub step_factor: f64,
    /// Momentum of `sgd`.
    pub momentum: f64,
    /// Weight decay.
    pub weight_decay: f64,
}

/// An update rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// Adam.
    Adam,
    /// Adam with decoupled weight decay.
    AdamW,
}

/// How the learning rate changes over the run, after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Always `lr`.
    Constant,
    /// Half a cosine from `lr` down to zero over the run.
    Cosine,
    /// Multiplied by a factor every few epochs.
    Step,
}

/// Section `[precision]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrecisionRecipe {
    /// Type of the matrix products and convolutions.
    pub compute: Compute,
    /// How the loss is scaled before the backward pass.
    pub loss_scale: ScaleRule,
    /// The scale, or the first one.
    pub scale: f64,
    /// `dynamic`: finite steps after which the scale doubles.
    pub growth_interval: u64,
    /// When gradients are checked for infinities and NaN.
    pub finite_check: FiniteCheck,
    /// Number format of the optimizer's moments.
    pub state: StateName,
}

/// A type to compute in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    /// Single precision.
    F32,
    /// Brain floating point.
    Bf16,
    /// Half precision.
    F16,
}

/// How the loss is scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScaleRule {
    /// `dynamic` for `f16`, else `none`.
    Auto,
    /// Not at all.
    None,
    /// By a constant.
    Fixed,
    /// By a number that falls at an overflow and grows again.
    Dynamic,
}

/// When gradients are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FiniteCheck {
    /// With 16-bit types or a loss scale.
    Auto,
    /// At every step.
    Always,
}

/// A number format of optimizer state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateName {
    /// Single precision, by Burn's own optimizer.
    F32,
    /// Eight bits, dynamic map.
    Dynamic8,
    /// Eight bits, evenly spaced.
    Linear8,
    /// Eight bits, `e4m3fn`.
    Fp8,
    /// Four bits, dynamic map for the first moments.
    Dynamic4,
    /// Four bits, evenly spaced.
    Linear4,
}

/// Section `[clipping]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClippingRecipe {
    /// The rule.
    pub rule: ClipRule,
    /// The largest norm or value.
    pub limit: f64,
    /// `agc`: largest ratio of gradient to weight.
    pub lambda: f64,
    /// `autoclip`, `quantile`: share of the norms below the limit.
    pub quantile: f64,
    /// `zclip`: standard deviations above the mean.
    pub z: f64,
    /// `zclip`: decay of the averages.
    pub decay: f64,
    /// `zclip`: steps before the rule begins.
    pub warmup: u64,
    /// Standard deviation of normal noise, added before clipping.
    pub noise: f64,
    /// `dp`: standard deviation of the noise in multiples of `limit`.
    pub noise_multiplier: f64,
    /// `dp`: largest ε to spend; 0: no limit.
    pub epsilon: f64,
    /// `dp`: δ; 0: a tenth of one over the number of examples.
    pub delta: f64,
}

/// A rule of clipping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClipRule {
    /// None.
    None,
    /// The norm of everything.
    GlobalNorm,
    /// The norm of every tensor.
    TensorNorm,
    /// Every element.
    Value,
    /// Relative to the weights, unit by unit.
    Agc,
    /// A percentile of all norms so far.
    #[serde(rename = "autoclip")]
    AutoClip,
    /// A running quantile of the norms.
    Quantile,
    /// Standard deviations above the running mean.
    #[serde(rename = "zclip")]
    ZClip,
    /// Every example, with noise: DP-SGD.
    Dp,
}

/// Section `[adversarial]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdversarialRecipe {
    /// The training method.
    pub method: RobustMethod,
    /// Norm of the perturbations.
    pub norm: BallNorm,
    /// Largest norm, in units of full ink.
    pub radius: f64,
    /// Steps of the ascent.
    pub steps: usize,
    /// Length of a step; 0: the method's own.
    pub step_size: f64,
    /// `trades`: weight of the divergence.
    pub beta: f64,
    /// `mart`: weight of the divergence.
    pub lambda: f64,
    /// `free`: how often a batch is repeated.
    pub replays: usize,
    /// Epochs between two measurements of robust accuracy; 0: only at the end.
    pub every: u64,
    /// Steps of the PGD that measures it.
    pub evaluation_steps: usize,
    /// Examples it is measured on.
    pub evaluation_examples: usize,
    /// The loss which that PGD climbs.
    pub evaluation_loss: AttackLoss,
}

/// A method of robust training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RobustMethod {
    /// Standard training.
    None,
    /// At the points of projected gradient ascent.
    Pgd,
    /// Clean loss and divergence.
    Trades,
    /// Margin loss and divergence weighted by doubt.
    Mart,
    /// At the points of one step from a random start.
    Fast,
    /// At perturbations carried on while batches repeat.
    Free,
}

/// A norm of perturbations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BallNorm {
    /// The largest pixel.
    Linf,
    /// Euclidean.
    L2,
    /// The sum of all pixels.
    L1,
}

/// A loss that an evaluation climbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttackLoss {
    /// Cross-entropy.
    CrossEntropy,
    /// Difference of logits ratio.
    Dlr,
}

/// Section `[bilevel]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BilevelRecipe {
    /// The hyper-parameter that is learned.
    pub learn: Learned,
    /// Largest relative change of it at a time.
    pub rate: f64,
    /// `weight-decay`: steps between two changes.
    pub every: u64,
}

/// A hyper-parameter that is learned along with the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Learned {
    /// None.
    None,
    /// `optimizer.lr`, by the agreement of successive steps.
    LearningRate,
    /// `optimizer.weight_decay`, by the validation loss after a step.
    WeightDecay,
}

/// Section `[multitask]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MultitaskRecipe {
    /// What is learned beside the class.
    pub tasks: Tasks,
    /// How the tasks' gradients become one.
    pub aggregator: AggregatorName,
}

/// The tasks beside the class itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tasks {
    /// None.
    #[serde(rename = "none")]
    None,
    /// Whether the digit is odd.
    #[serde(rename = "digit+parity")]
    Parity,
    /// Whether it is odd, and whether it is greater than four.
    #[serde(rename = "digit+parity+large")]
    ParityLarge,
    /// One for each label column of a CSV file after the first.
    #[serde(rename = "columns")]
    Columns,
}

/// A way to aggregate gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // The methods' names.
pub enum AggregatorName {
    Sum,
    Mean,
    #[serde(rename = "upgrad")]
    UpGrad,
    #[serde(rename = "dualproj")]
    DualProj,
    Mgda,
    #[serde(rename = "cagrad")]
    CaGrad,
    #[serde(rename = "pcgrad")]
    PcGrad,
    ImtlG,
    AlignedMtl,
    #[serde(rename = "config")]
    ConFig,
    NashMtl,
}

/// Section `[spectrum]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpectrumRecipe {
    /// Epochs between two measurements; 0: never.
    pub every: u64,
    /// Number of top eigenvalues.
    pub eigenvalues: usize,
    /// Lanczos iterations, one Hessian-vector product each.
    pub iterations: usize,
    /// Training examples whose mean loss is examined.
    pub examples: usize,
}

impl Default for DataRecipe {
    fn default() -> Self {
        Self {
            name: DataName::Digits,
            dir: String::new(),
            limit: 0,
            validation: 0.0,
            height: 0,
            width: 0,
            labels: 1,
            ink: 0,
        }
    }
}

impl Default for ModelRecipe {
    fn default() -> Self {
        Self { name: ModelName::Cnn, channels: 16, hidden: 64, norm: LayerNorm::None }
    }
}

impl Default for TrainRecipe {
    fn default() -> Self {
        Self { epochs: 20, batch_size: 64, seed: 0, ema: 0.0, metric: Metric::Accuracy, patience: 0, keep: Keep::Last }
    }
}

impl Default for OptimizerRecipe {
    fn default() -> Self {
        Self {
            name: OptimizerName::AdamW,
            lr: 0.002,
            schedule: Schedule::Constant,
            warmup: 0,
            step_every: 10,
            step_factor: 0.1,
            momentum: 0.9,
            weight_decay: 0.01,
        }
    }
}

impl Default for PrecisionRecipe {
    fn default() -> Self {
        Self {
            compute: Compute::F32,
            loss_scale: ScaleRule::Auto,
            scale: 65_536.0,
            growth_interval: 2000,
            finite_check: FiniteCheck::Auto,
            state: StateName::F32,
        }
    }
}

impl Default for ClippingRecipe {
    fn default() -> Self {
        Self {
            rule: ClipRule::None,
            limit: 1.0,
            lambda: 0.01,
            quantile: 0.9,
            z: 2.5,
            decay: 0.97,
            warmup: 25,
            noise: 0.0,
            noise_multiplier: 1.0,
            epsilon: 0.0,
            delta: 0.0,
        }
    }
}

impl Default for AdversarialRecipe {
    fn default() -> Self {
        Self {
            method: RobustMethod::None,
            norm: BallNorm::Linf,
            radius: 0.1,
            steps: 7,
            step_size: 0.0,
            beta: 6.0,
            lambda: 5.0,
            replays: 4,
            every: 5,
            evaluation_steps: 20,
            evaluation_examples: 200,
            evaluation_loss: AttackLoss::CrossEntropy,
        }
    }
}

impl Default for BilevelRecipe {
    fn default() -> Self {
        Self { learn: Learned::None, rate: 0.02, every: 1 }
    }
}

impl Default for MultitaskRecipe {
    fn default() -> Self {
        Self { tasks: Tasks::None, aggregator: AggregatorName::Sum }
    }
}

impl Default for SpectrumRecipe {
    fn default() -> Self {
        Self { every: 4, eigenvalues: 5, iterations: 20, examples: 256 }
    }
}
