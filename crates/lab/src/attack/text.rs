//! `lab attack text`: a sentence, an attack, what the classifier reads before and after.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use adversarial::text::training::Standard;
use adversarial::text::{
    BeamAttack, DeepWordBug, GeneticAttack, Homoglyphs, HotFlip, MostChanged, NeuralText, Prediction, Pwws, SkipReason,
    Synonyms, TextAttack, TextClassifier, TextCnn, TextEngine, TextFooler, TextGoal, TextOutcome, TextStatus,
    WordSimilarity,
};
use clap::{Args, ValueEnum};

use crate::error::{Error, Result};
use crate::sentences::{self, Language, Sentences};
use crate::train::choose_device;

/// What to attack and how.
#[derive(Args, Clone, Debug)]
pub struct TextArgs {
    /// The sentence.
    #[arg(value_name = "SENTENCE")]
    pub sentence: String,
    /// The attack.
    #[arg(long, value_name = "NAME", default_value = "deep-word-bug")]
    pub attack: TextAttackName,
    /// What the sentence says: negative or positive [default: what the classifier reads].
    #[arg(long, value_name = "CLASS")]
    pub label: Option<String>,
    /// Synonyms for the attacks that exchange words: two words a line [default: the PPDB's where $DATA_DIR has them, else a short list].
    #[arg(long, value_name = "FILE")]
    pub synonyms: Option<PathBuf>,
    /// Largest share of the words that may be changed.
    #[arg(long, value_name = "X", default_value_t = 0.3)]
    pub changed: f64,
    /// The most texts that the classifier may be asked about.
    #[arg(long, value_name = "N")]
    pub queries: Option<u64>,
    /// Folder of a classifier kept by --save [default: one trained at once, on the movie reviews where $DATA_DIR has them, else on opinions from a small grammar].
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Folder to keep the classifier in that was trained.
    #[arg(long, value_name = "DIR", conflicts_with = "model")]
    pub save: Option<PathBuf>,
    /// Seed of all randomness.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// The attacks, by what they change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TextAttackName {
    /// Letters: misspellings of the words that matter most.
    DeepWordBug,
    /// Letters: those of other scripts that look the same.
    Homoglyphs,
    /// Words: synonyms, by how much they gain and how much hangs on the word.
    Pwws,
    /// Words: near ones of the same part of speech, in a sentence that stays similar.
    TextFooler,
    /// Words: near ones, by the gradient.
    HotFlip,
    /// Words: near ones, by evolution.
    Genetic,
    /// Words: synonyms, by beam search.
    Beam,
}

/// Attacks a sentence; the answer is what to print.
///
/// # Errors
/// [`Error::Value`] for a sentence without words or a class that there is not, those of the files, those of the computation.
pub fn run(arguments: &TextArgs) -> Result<String> {
    let wrong = |field: &str, value: &str, expected: String| Error::Value {
        origin: "lab attack text".into(),
        field: field.into(),
        value: value.into(),
        expected,
    };
    if !arguments.sentence.chars().any(char::is_alphanumeric) {
        return Err(wrong("SENTENCE", &arguments.sentence, "at least one word".into()));
    }
    if !(arguments.changed > 0.0 && arguments.changed <= 1.0) {
        return Err(wrong("--changed", &arguments.changed.to_string(), "a share above 0, at most 1".into()));
    }
    let sentences = Sentences::load(arguments.seed)?;
    let classes = sentences.train.classes();
    let label = match &arguments.label {
        None => None,
        Some(name) => match classes.iter().position(|class| class == name) {
            Some(class) => Some(class),
            None => return Err(wrong("--label", name, format!("one of {}", classes.join(", ")))),
        },
    };
    let device = choose_device()?;
    let classifier = match &arguments.model {
        Some(folder) => sentences::load(folder, &device)?,
        None => sentences.classifier(&Standard, &mut (), arguments.seed, &device)?,
    };
    if let Some(folder) = &arguments.save {
        classifier.save(folder)?;
    }
    let label = match label {
        Some(label) => label,
        None => likeliest(&classifier.logits(&[&arguments.sentence])?[0]),
    };
    let attack = arguments.attack(&sentences, &classifier)?;
    let mut engine = TextEngine::new().seed(arguments.seed);
    if let Some(most) = arguments.queries {
        engine = engine.queries(most);
    }
    let attacked =
        engine.run_with_gradients(&*attack, &classifier, &[&arguments.sentence], &[TextGoal::untargeted(label)])?;
    Ok(said(&attacked.outcomes[0], &attack.name(), classes, sentences.source))
}

fn likeliest(logits: &[f64]) -> usize {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap_or(0)
}

impl TextArgs {
    fn attack(&self, sentences: &Sentences, classifier: &NeuralText<TextCnn>) -> Result<Box<dyn TextAttack>> {
        let most = MostChanged::share(self.changed);
        let language = || Language::learn(&sentences.train, classifier.vocabulary(), self.synonyms.as_deref());
        Ok(match self.attack {
            TextAttackName::DeepWordBug => Box::new(DeepWordBug::new().constraint(most)),
            TextAttackName::Homoglyphs => Box::new(Homoglyphs::new().constraint(most)),
            TextAttackName::HotFlip => {
                let near = WordSimilarity::new(language()?.vectors, 0.5);
                Box::new(HotFlip::new().most_flips(4).least_cosine(-1.0).constraint(near).constraint(most))
            }
            TextAttackName::Pwws => Box::new(Pwws::new(language()?.synonyms).constraint(most)),
            TextAttackName::TextFooler => Box::new(TextFooler::new(language()?.vectors).constraint(most)),
            TextAttackName::Genetic => Box::new(GeneticAttack::new(language()?.vectors).constraint(most)),
            TextAttackName::Beam => {
                let synonyms: Arc<_> = language()?.synonyms;
                Box::new(BeamAttack::new(Synonyms::new(synonyms)).constraint(most))
            }
        })
    }
}

/// Predictions before and after, changed words in double brackets.
fn said(outcome: &TextOutcome, attack: &str, classes: &[String], source: &str) -> String {
    let read = |prediction: &Option<Prediction>| match prediction {
        Some(prediction) => format!("{} ({:.1} %)", classes[prediction.class], 100.0 * prediction.probability),
        None => "nothing".into(),
    };
    let mut text = format!(
        "classifier of {source}\n\n  before  {}\n          {}\n",
        read(&outcome.before),
        outcome.sentence.marked_original()
    );
    match outcome.status {
        TextStatus::Skipped(reason) => {
            let why = match reason {
                SkipReason::AlreadyWrong => "the classifier reads something else than the label already",
                SkipReason::NoWords => "it has no word",
                SkipReason::NotFinite => "the classifier's logits are no numbers",
            };
            let _ = writeln!(text, "\n  not attacked: {why}");
        }
        status => {
            let _ = writeln!(text, "  after   {}\n          {}", read(&outcome.after), outcome.sentence.marked());
            let found =
                if status == TextStatus::Succeeded { "succeeded" } else { "failed: the nearest it came is shown" };
            let _ = writeln!(
                text,
                "\n  {attack} {found}; {} of {} words changed, {} texts asked about, {} gradients",
                outcome.sentence.changed().len(),
                outcome.sentence.len(),
                outcome.queries,
                outcome.gradients
            );
        }
    }
    text
}
