//! The recipe: every setting of a training run, as TOML.
//!
//! [`FIELDS`] is the one table of names, ranges and explanations: it checks recipe files and command-line flags alike and
//! prints the commented recipe, so that none of the three can disagree with another.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::error::{Error, Result};

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
    /// What is measured of the Hessian.
    pub spectrum: SpectrumRecipe,
}

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
}

/// A data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataName {
    /// The embedded UCI digits, 8 × 8 pixels.
    Digits,
    /// MNIST from IDX files, 28 × 28 pixels.
    Mnist,
}

impl DataName {
    /// The data set's name in prose.
    pub fn title(self) -> &'static str {
        match self {
            Self::Digits => "UCI digits",
            Self::Mnist => "MNIST",
        }
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

/// How the learning rate changes over the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Always `lr`.
    Constant,
    /// Half a cosine from `lr` down to zero over the run.
    Cosine,
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
        Self { name: DataName::Digits, dir: String::new(), limit: 0 }
    }
}

impl Default for ModelRecipe {
    fn default() -> Self {
        Self { name: ModelName::Cnn, channels: 16, hidden: 64 }
    }
}

impl Default for TrainRecipe {
    fn default() -> Self {
        Self { epochs: 20, batch_size: 64, seed: 0 }
    }
}

impl Default for OptimizerRecipe {
    fn default() -> Self {
        Self { name: OptimizerName::AdamW, lr: 0.002, schedule: Schedule::Constant, momentum: 0.9, weight_decay: 0.01 }
    }
}

impl Default for SpectrumRecipe {
    fn default() -> Self {
        Self { every: 4, eigenvalues: 5, iterations: 20, examples: 256 }
    }
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
    Field {
        name: "data.name",
        kind: Kind::Word(&["digits", "mnist"]),
        doc: "the embedded UCI digits (8 x 8 pixels), or MNIST from IDX files (28 x 28)",
    },
    Field {
        name: "data.dir",
        kind: Kind::Text,
        doc: "folder of the IDX files; empty: $DATA_DIR/mnist, else ../shared/data/mnist",
    },
    Field { name: "data.limit", kind: Kind::Int(0, 10_000_000), doc: "use only so many training examples; 0: all" },
    Field { name: "model.name", kind: Kind::Word(&["cnn", "mlp"]), doc: "the architecture" },
    Field {
        name: "model.channels",
        kind: Kind::Int(1, 512),
        doc: "cnn: channels of the first convolution; the second has twice as many",
    },
    Field { name: "model.hidden", kind: Kind::Int(1, 8192), doc: "width of the hidden linear layers" },
    Field { name: "train.epochs", kind: Kind::Int(1, 100_000), doc: "passes over the training set" },
    Field { name: "train.batch_size", kind: Kind::Int(1, 65_536), doc: "examples a step" },
    Field {
        name: "train.seed",
        kind: Kind::Int(0, i64::MAX),
        doc: "of the initial weights and of the order of the examples",
    },
    Field { name: "optimizer.name", kind: Kind::Word(&["adamw", "adam", "sgd"]), doc: "the update rule" },
    Field { name: "optimizer.lr", kind: Kind::Real(1e-12, 1e3), doc: "learning rate" },
    Field {
        name: "optimizer.schedule",
        kind: Kind::Word(&["constant", "cosine"]),
        doc: "the learning rate stays, or falls to zero along half a cosine over the run",
    },
    Field { name: "optimizer.momentum", kind: Kind::Real(0.0, 0.999_999), doc: "sgd: momentum" },
    Field {
        name: "optimizer.weight_decay",
        kind: Kind::Real(0.0, 10.0),
        doc: "adamw: decoupled from the gradient; adam and sgd: added to it",
    },
    Field {
        name: "spectrum.every",
        kind: Kind::Int(0, 100_000),
        doc: "epochs between two measurements of the Hessian's top eigenvalues; 0: never",
    },
    Field { name: "spectrum.eigenvalues", kind: Kind::Int(1, 50), doc: "how many" },
    Field {
        name: "spectrum.iterations",
        kind: Kind::Int(2, 500),
        doc: "Lanczos iterations, one exact Hessian-vector product each; not fewer than eigenvalues",
    },
    Field {
        name: "spectrum.examples",
        kind: Kind::Int(1, 10_000_000),
        doc: "the first so many training examples, whose mean loss is examined",
    },
];

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
        let spectrum = &recipe.spectrum;
        if spectrum.iterations < spectrum.eigenvalues {
            return Err(Error::Value {
                origin: origin.into(),
                field: "spectrum.iterations".into(),
                value: spectrum.iterations.to_string(),
                expected: format!("at least spectrum.eigenvalues = {}", spectrum.eigenvalues),
            });
        }
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
        recipe.data = DataRecipe { name: DataName::Mnist, dir: "a \"b\" \\ c".into(), limit: 7 };
        recipe.model = ModelRecipe { name: ModelName::Mlp, channels: 3, hidden: 5 };
        recipe.train = TrainRecipe { epochs: 9, batch_size: 8, seed: i64::MAX as u64 };
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
                Kind::Real(..) => &["-1.0", "nan", "inf", "\"a\"", "9999.5"],
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
            "a.toml: unknown field train.epoch (known here: epochs, batch_size, seed)"
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
