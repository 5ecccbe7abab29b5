//! The recipe: every setting of a training run, as TOML.
//!
//! [`FIELDS`] is the one table of names, ranges and explanations: it checks recipe files and command-line flags alike and
//! prints the commented recipe, so that none of the three can disagree with another.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::error::{Error, Result};

mod rules;
mod tables;

pub use tables::*;

/// All settings of a training run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// What to train on.
    pub data: DataRecipe,
    /// What to train.
    pub model: ModelRecipe,
    /// How long, and from which random numbers.
    pub train: TrainRecipe,
    /// How a gradient becomes an update.
    pub optimizer: OptimizerRecipe,
    /// In which numbers is computed.
    pub precision: PrecisionRecipe,
    /// What becomes of long gradients, and what noise they get.
    pub clipping: ClippingRecipe,
    /// Against whom is trained.
    pub adversarial: AdversarialRecipe,
    /// Which setting is learned too.
    pub bilevel: BilevelRecipe,
    /// What is learned beside the class.
    pub multitask: MultitaskRecipe,
    /// What is measured of the Hessian.
    pub spectrum: SpectrumRecipe,
}

/// A setting: its name, what is allowed and what it does.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Name with its section, such as `train.epochs`.
    pub name: &'static str,
    /// What is allowed.
    pub kind: Kind,
    /// What it does.
    pub doc: &'static str,
}

/// What a setting may hold.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// One of these words.
    Word(&'static [&'static str]),
    /// An integer, both ends included.
    Int(i64, i64),
    /// A real number, both ends included.
    Real(f64, f64),
    /// Any text.
    Text,
}

/// Every setting, in the order in which a recipe prints them.
pub const FIELDS: &[Field] = &[
    word(
        "data.name",
        &["digits", "mnist", "idx", "csv", "png"],
        "embedded UCI digits (8 x 8 pixels), MNIST (28 x 28), or your own images: IDX files named as MNIST's, CSV files (an image a line), PNG files (a folder a class)",
    ),
    Field {
        name: "data.dir",
        kind: Kind::Text,
        doc: "folder of the files; empty: $DATA_DIR/mnist, else ../shared/data/mnist (mnist); the working folder (idx, csv, png)",
    },
    int("data.limit", 0, 10_000_000, "use only so many training examples; 0: all"),
    real(
        "data.validation",
        0.0,
        0.9,
        "share of the training examples held out to judge by: early stopping, best checkpoint, learned weight decay",
    ),
    int("data.height", 0, 4096, "csv: rows of an image; 0: images are square"),
    int("data.width", 0, 4096, "csv: columns of an image; 0: images are square"),
    int("data.labels", 1, 8, "csv: label columns at the end of a line"),
    int("data.ink", 0, 255, "csv: grey value of full ink; 0: the largest in the training file"),
    word("model.name", &["cnn", "mlp"], "the architecture"),
    int("model.channels", 1, 512, "cnn: channels of the first convolution; the second has twice as many"),
    int("model.hidden", 1, 8192, "width of the hidden linear layers"),
    word(
        "model.norm",
        &["none", "batch", "group"],
        "cnn: normalisation after each convolution, by the batch or by the channels of one example",
    ),
    int("train.epochs", 1, 100_000, "passes over the training set"),
    int("train.batch_size", 1, 65_536, "examples a step; clipping.rule = dp: on average"),
    int("train.seed", 0, i64::MAX, "of the initial weights, the order of the examples and all else that is drawn"),
    real(
        "train.ema",
        0.0,
        0.999_999,
        "decay of a moving average of the weights, which is then what is measured, and saved beside them; 0: none",
    ),
    word(
        "train.metric",
        &["accuracy", "loss", "robust-accuracy"],
        "of the validation examples; what patience and keep go by",
    ),
    int("train.patience", 0, 100_000, "epochs without a better metric after which training ends; 0: it does not"),
    word(
        "train.keep",
        &["last", "best"],
        "keep the last checkpoint, or beside it the one with the best metric (folder best)",
    ),
    word("optimizer.name", &["adamw", "adam", "sgd"], "the update rule"),
    real("optimizer.lr", 1e-12, 1e3, "learning rate; bilevel.learn = learning-rate: where it starts"),
    word(
        "optimizer.schedule",
        &["constant", "cosine", "step"],
        "after the warm-up the learning rate stays, falls to zero along half a cosine, or falls in steps",
    ),
    int("optimizer.warmup", 0, 100_000, "epochs over which the learning rate grows to lr in a straight line"),
    int("optimizer.step_every", 1, 100_000, "step: epochs between two changes"),
    real("optimizer.step_factor", 0.0, 1.0, "step: what the learning rate is multiplied by"),
    real("optimizer.momentum", 0.0, 0.999_999, "sgd: momentum"),
    real("optimizer.weight_decay", 0.0, 10.0, "adamw: decoupled from the gradient; adam and sgd: added to it"),
    word(
        "precision.compute",
        &["f32", "bf16", "f16"],
        "type of matrix products and convolutions, forward and backward; weights stay f32",
    ),
    word(
        "precision.loss_scale",
        &["auto", "none", "fixed", "dynamic"],
        "multiply the loss before the backward pass and divide the gradient after it; auto: dynamic for f16, else none",
    ),
    real("precision.scale", 1.0, 16_777_216.0, "fixed: the scale; dynamic: the first one"),
    int("precision.growth_interval", 1, 1_000_000_000, "dynamic: finite steps after which the scale doubles"),
    word(
        "precision.finite_check",
        &["auto", "always"],
        "skip a step whose gradient is not finite: with 16-bit types or a loss scale, or always",
    ),
    word(
        "precision.state",
        &["f32", "dynamic8", "linear8", "fp8", "dynamic4", "linear4"],
        "number format of the optimizer's moments (tensors of 4096 numbers and more)",
    ),
    word(
        "clipping.rule",
        &["none", "global-norm", "tensor-norm", "value", "agc", "autoclip", "quantile", "zclip", "dp"],
        "what becomes of long gradients; dp: each example's is clipped, and noise added to their sum",
    ),
    real(
        "clipping.limit",
        1e-9,
        1e9,
        "global-norm, tensor-norm, dp: largest norm; value: largest element; quantile: the first limit",
    ),
    real("clipping.lambda", 0.0, 1e3, "agc: largest ratio of a unit's gradient to its weights"),
    real(
        "clipping.quantile",
        0.01,
        0.99,
        "autoclip, quantile: share of the gradient norms so far that the limit lies above",
    ),
    real("clipping.z", 0.01, 100.0, "zclip: standard deviations above the mean norm"),
    real("clipping.decay", 0.0, 0.999_999, "zclip: decay of the running averages"),
    int("clipping.warmup", 1, 1_000_000, "zclip: steps before the rule begins"),
    real(
        "clipping.noise",
        0.0,
        1e3,
        "standard deviation of normal noise, added to each element of the gradient before it is clipped",
    ),
    real("clipping.noise_multiplier", 0.0, 1e3, "dp: standard deviation of the noise in multiples of limit"),
    real("clipping.epsilon", 0.0, 1e3, "dp: training ends before it would spend more than this epsilon; 0: no end"),
    real("clipping.delta", 0.0, 0.5, "dp: delta of the account; 0: a tenth of one over the number of examples"),
    word("adversarial.method", &["none", "pgd", "trades", "mart", "fast", "free"], "train at perturbed images"),
    word("adversarial.norm", &["linf", "l2", "l1"], "how perturbations are measured"),
    real("adversarial.radius", 0.0, 1e3, "how far an adversary may move an image; full ink is 1"),
    int("adversarial.steps", 1, 1000, "pgd, trades, mart: steps of the ascent"),
    real("adversarial.step_size", 0.0, 1e3, "length of a step; 0: the method's own"),
    real("adversarial.beta", 0.0, 1e3, "trades: weight of the divergence"),
    real("adversarial.lambda", 0.0, 1e3, "mart: weight of the divergence"),
    int("adversarial.replays", 1, 100, "free: how often each batch is repeated; an epoch has as many times more steps"),
    int("adversarial.every", 0, 100_000, "epochs between two measurements of robust accuracy; 0: only at the end"),
    int("adversarial.evaluation_steps", 1, 10_000, "steps of the PGD that measures it"),
    int("adversarial.evaluation_examples", 1, 10_000_000, "the first so many test examples, on which it is measured"),
    word("adversarial.evaluation_loss", &["cross-entropy", "dlr"], "the loss which that PGD climbs"),
    word(
        "bilevel.learn",
        &["none", "learning-rate", "weight-decay"],
        "a setting that is learned while training: optimizer.lr by the agreement of successive steps, optimizer.weight_decay by the validation loss after a step",
    ),
    real("bilevel.rate", 1e-6, 0.5, "largest relative change of it at a time"),
    int("bilevel.every", 1, 1_000_000, "weight-decay: steps between two changes"),
    word(
        "multitask.tasks",
        &["none", "digit+parity", "digit+parity+large", "columns"],
        "further heads on the same body: whether a digit is odd, whether it is above four; columns: the label columns of a CSV file",
    ),
    word(
        "multitask.aggregator",
        &[
            "sum",
            "mean",
            "upgrad",
            "dualproj",
            "mgda",
            "cagrad",
            "pcgrad",
            "imtl-g",
            "aligned-mtl",
            "config",
            "nash-mtl",
        ],
        "how the tasks' gradients of the body become one; a head has its own task's",
    ),
    int("spectrum.every", 0, 100_000, "epochs between two measurements of the Hessian's top eigenvalues; 0: never"),
    int("spectrum.eigenvalues", 1, 50, "how many"),
    int(
        "spectrum.iterations",
        2,
        500,
        "Lanczos iterations, one exact Hessian-vector product each; not fewer than eigenvalues",
    ),
    int("spectrum.examples", 1, 10_000_000, "the first so many training examples, whose mean loss is examined"),
];

const fn word(name: &'static str, words: &'static [&'static str], doc: &'static str) -> Field {
    Field { name, kind: Kind::Word(words), doc }
}

const fn int(name: &'static str, low: i64, high: i64, doc: &'static str) -> Field {
    Field { name, kind: Kind::Int(low, high), doc }
}

const fn real(name: &'static str, low: f64, high: f64, doc: &'static str) -> Field {
    Field { name, kind: Kind::Real(low, high), doc }
}

/// A setting given on the command line.
#[derive(Clone, Debug)]
pub struct Override {
    /// The flag, such as `--epochs`.
    pub flag: &'static str,
    /// The setting, such as `train.epochs`.
    pub field: &'static str,
    /// The value as typed.
    pub value: String,
}

impl Recipe {
    /// The recipe of a file (the defaults where there is none), with the command line's settings on top.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Syntax`], [`Error::UnknownField`] or [`Error::Value`].
    pub fn load(file: Option<&Path>, overrides: &[Override]) -> Result<Self> {
        let (mut table, origin) = match file {
            Some(path) => {
                let origin = path.display().to_string();
                let text = fs::read_to_string(path).map_err(Error::read(path))?;
                (parse_table(&text, &origin)?, origin)
            }
            None => (Table::new(), "the default recipe".into()),
        };
        check_table(&table, &origin)?;
        for item in overrides {
            let value = check_override(item)?;
            let (section, key) = item.field.split_once('.').expect("a field has a section");
            table
                .entry(section)
                .or_insert_with(|| Value::Table(Table::new()))
                .as_table_mut()
                .expect("sections were checked to be tables")
                .insert(key.into(), value);
        }
        let origin = if overrides.is_empty() { origin } else { format!("{origin} with the flags given") };
        Self::from_table(table, &origin)
    }

    /// The recipe written in `text`; `origin` names it in errors.
    ///
    /// # Errors
    /// [`Error::Syntax`], [`Error::UnknownField`] or [`Error::Value`].
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        let table = parse_table(text, origin)?;
        check_table(&table, origin)?;
        Self::from_table(table, origin)
    }

    /// The recipe as TOML, each setting with its meaning and range, in a form that [`Recipe::parse`] reads back.
    pub fn to_toml(&self) -> String {
        let table = Table::try_from(self).expect("a recipe is a table");
        let mut text = String::from("# A recipe of `lab train`. Settings left out keep their defaults.\n");
        let mut last = "";
        for field in FIELDS {
            let (section, key) = field.name.split_once('.').expect("a field has a section");
            if section != last {
                text += &format!("\n[{section}]\n");
                last = section;
            }
            let value = &table[section][key];
            text += &match field.kind {
                Kind::Text => format!("# {}\n{key} = {value}\n", field.doc),
                _ => format!("# {} ({})\n{key} = {value}\n", field.doc, field.kind),
            };
        }
        text
    }

    fn from_table(table: Table, origin: &str) -> Result<Self> {
        let recipe: Self = table.try_into().expect("a table that passed check_table is a recipe");
        recipe.check(origin)?;
        Ok(recipe)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Word(words) => write!(f, "one of {}", words.join(", ")),
            Self::Int(low, i64::MAX) => write!(f, "an integer from {low} up"),
            Self::Int(low, high) => write!(f, "an integer from {low} to {high}"),
            Self::Real(low, high) => write!(f, "a number from {low:?} to {high:?}"),
            Self::Text => f.write_str("a text"),
        }
    }
}

impl Kind {
    fn allows(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Word(words), Value::String(word)) => words.contains(&word.as_str()),
            (Self::Int(low, high), Value::Integer(number)) => (low..=high).contains(number),
            (Self::Real(low, high), Value::Float(number)) => (low..=high).contains(number),
            (Self::Real(low, high), Value::Integer(number)) => (low..=high).contains(&(*number as f64)),
            (Self::Text, Value::String(_)) => true,
            _ => false,
        }
    }
}

fn parse_table(text: &str, origin: &str) -> Result<Table> {
    text.parse().map_err(|error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = 1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count();
        Error::Syntax { origin: origin.into(), line, problem: one_line(error.message()) }
    })
}

fn check_table(table: &Table, origin: &str) -> Result<()> {
    for (section, content) in table {
        let prefix = format!("{section}.");
        let known: Vec<&str> = FIELDS.iter().filter_map(|field| field.name.strip_prefix(&prefix)).collect();
        if known.is_empty() {
            let mut sections: Vec<&str> =
                FIELDS.iter().filter_map(|field| Some(field.name.split_once('.')?.0)).collect();
            sections.dedup();
            return Err(Error::UnknownField {
                origin: origin.into(),
                field: section.clone(),
                known: sections.join(", "),
            });
        }
        let Value::Table(content) = content else {
            return Err(Error::Value {
                origin: origin.into(),
                field: section.clone(),
                value: one_line(&content.to_string()),
                expected: format!("a section [{section}]"),
            });
        };
        for (key, value) in content {
            let name = format!("{section}.{key}");
            let Some(field) = FIELDS.iter().find(|field| field.name == name) else {
                return Err(Error::UnknownField { origin: origin.into(), field: name, known: known.join(", ") });
            };
            if !field.kind.allows(value) {
                return Err(Error::Value {
                    origin: origin.into(),
                    field: name,
                    value: one_line(&value.to_string()),
                    expected: field.kind.to_string(),
                });
            }
        }
    }
    Ok(())
}

fn check_override(item: &Override) -> Result<Value> {
    let field = FIELDS.iter().find(|field| field.name == item.field).expect("flags name fields");
    let value = match field.kind {
        Kind::Word(_) | Kind::Text => Some(Value::String(item.value.clone())),
        Kind::Int(..) => item.value.parse().ok().map(Value::Integer),
        Kind::Real(..) => item.value.parse().ok().map(Value::Float),
    };
    value.filter(|value| field.kind.allows(value)).ok_or_else(|| Error::Value {
        origin: item.flag.into(),
        field: item.field.into(),
        value: one_line(&item.value),
        expected: field.kind.to_string(),
    })
}

/// `text` on one line, cut where it is very long.
pub(crate) fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        let message = Recipe::parse(text, "a.toml").unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }

    #[test]
    fn printed_recipe_reads_back() {
        let mut recipe = Recipe::default();
        assert_eq!(Recipe::parse(&recipe.to_toml(), "").unwrap(), recipe);
        recipe.data =
            DataRecipe { name: DataName::Mnist, dir: "a \"b\" \\ c".into(), limit: 7, ..DataRecipe::default() };
        recipe.model = ModelRecipe { name: ModelName::Mlp, channels: 3, hidden: 5, norm: LayerNorm::Group };
        recipe.train =
            TrainRecipe { epochs: 9, batch_size: 8, seed: i64::MAX as u64, ema: 0.5, ..TrainRecipe::default() };
        recipe.optimizer.name = OptimizerName::Sgd;
        recipe.optimizer.schedule = Schedule::Cosine;
        recipe.optimizer.lr = 1e-9;
        recipe.spectrum = SpectrumRecipe { every: 0, eigenvalues: 1, iterations: 2, examples: 3 };
        assert_eq!(Recipe::parse(&recipe.to_toml(), "").unwrap(), recipe);
    }

    #[test]
    fn every_setting_is_in_the_table_and_its_default_is_allowed() {
        let table = Table::try_from(Recipe::default()).unwrap();
        let names: usize = table.values().map(|section| section.as_table().unwrap().len()).sum();
        assert_eq!(names, FIELDS.len());
        check_table(&table, "").unwrap();
    }

    #[test]
    fn an_empty_recipe_is_the_default() {
        assert_eq!(Recipe::parse("", "").unwrap(), Recipe::default());
        assert_eq!(Recipe::load(None, &[]).unwrap(), Recipe::default());
    }

    #[test]
    fn values_out_of_range_are_named_with_their_range() {
        for field in FIELDS {
            let (section, key) = field.name.split_once('.').unwrap();
            let bad: &[&str] = match field.kind {
                Kind::Word(_) => &["\"vgg\"", "3", "\"CNN\""],
                Kind::Int(..) => &["-1", "1.5", "\"3\"", "true", "[1]"],
                Kind::Real(..) => &["-1.0", "nan", "inf", "\"a\"", "99999999999.5"],
                Kind::Text => &["3", "[\"a\"]"],
            };
            for value in bad {
                let message = error(&format!("[{section}]\n{key} = {value}\n"));
                assert!(message.starts_with(&format!("a.toml: {} = {value}", field.name)), "{message}");
                assert!(message.ends_with(&field.kind.to_string()), "{message}");
            }
        }
    }

    #[test]
    fn unknown_names_say_what_is_known() {
        assert_eq!(
            error("[train]\nepoch = 3"),
            "a.toml: unknown field train.epoch (known here: epochs, batch_size, seed, ema, metric, patience, keep)"
        );
        assert!(error("epochs = 3").starts_with("a.toml: unknown field epochs (known here: data, model,"));
        assert_eq!(error("train = 3"), "a.toml: train = 3: expected a section [train]");
    }

    #[test]
    fn what_is_not_toml_is_named_with_its_line() {
        let message = error("[train]\nepochs = \nseed = 2");
        assert!(message.starts_with("a.toml, line 2: not valid TOML: "), "{message}");
        assert!(error("[train]\nseed = 1\nseed = 2").contains("line 3"));
    }

    #[test]
    fn fields_are_checked_against_each_other() {
        assert_eq!(
            error("[spectrum]\neigenvalues = 9\niterations = 8"),
            "a.toml: spectrum.iterations = 8: expected at least spectrum.eigenvalues = 9"
        );
    }

    #[test]
    fn flags_override_the_file_and_are_checked_alike() {
        let flag = |value: &str| [Override { flag: "--lr", field: "optimizer.lr", value: value.into() }];
        assert_eq!(Recipe::load(None, &flag("0.5")).unwrap().optimizer.lr, 0.5);
        assert_eq!(Recipe::parse("[optimizer]\nlr = 1", "").unwrap().optimizer.lr, 1.0);
        assert_eq!(
            Recipe::load(None, &flag("NaN")).unwrap_err().to_string(),
            "--lr: optimizer.lr = NaN: expected a number from 1e-12 to 1000.0"
        );
        let message = Recipe::load(Some(Path::new("no/such.toml")), &[]).unwrap_err().to_string();
        assert!(message.starts_with("no/such.toml: cannot be read: "), "{message}");
    }
}
