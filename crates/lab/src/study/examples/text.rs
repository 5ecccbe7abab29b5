//! Text: sentences whose opinion a network reads the other way round, by letters and by words.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use adversarial::text::training::{Fgm, Rewritten, Standard, TrainingHook};
use adversarial::text::{
    Corpus, DeepWordBug, Homoglyphs, HotFlip, MostChanged, NeuralText, Pwws, StopWords, TextAttack, TextAttacked,
    TextCnn, TextEngine, TextFooler, TextGoal, TextOutcome, TextStatus, UniversalTrigger, WordSimilarity,
};
use core_tensor::Random;
use serde::Serialize;

use super::{Section, percent, row};
use crate::error::Result;
use crate::report::bars::{Bar, Bars};
use crate::report::escape;
use crate::report::plot::fixed;
use crate::sentences::{EPOCHS, Language, Sentences};
use crate::study::{Chapter, Part, Setting};

/// Held-out sentences that are attacked.
const ATTACKED: usize = 200;
/// Sentences attacked before each epoch but the first, for the network that learns from them.
const REWRITTEN: usize = 4000;
/// Largest share of the words that attacks may change.
const CHANGED: f64 = 0.3;
/// Radius of FGM's perturbation of the word vectors of a sentence.
const RADIUS: f64 = 0.2;
/// Examples shown for each kind of change, and the most letters they have.
const SHOWN: usize = 3;
const LETTERS: usize = 130;
const NETWORKS: [&str; 3] = ["trained as usual", "FGM", "attacked sentences"];
const ATTACKS: [&str; 5] = ["DeepWordBug", "homoglyphs", "PWWS", "TextFooler", "HotFlip"];
/// Which of these attacks change letters, and which words.
const LETTER: usize = 0;
const WORD: usize = 3;

pub const UNITS: u64 = 1 + NETWORKS.len() as u64 + (NETWORKS.len() * ATTACKS.len()) as u64 + 1;

#[derive(Clone, Debug, Serialize)]
struct Text {
    source: &'static str,
    synonyms: String,
    classes: Vec<String>,
    trained_on: usize,
    held_out: usize,
    networks: Vec<Network>,
    trigger: Trigger,
    examples: Vec<Example>,
}

#[derive(Clone, Debug, Serialize)]
struct Network {
    name: &'static str,
    /// Of all held-out sentences.
    accuracy: f64,
    seconds: f64,
    attacks: Vec<Attacked>,
}

#[derive(Clone, Debug, Serialize)]
struct Attacked {
    name: &'static str,
    before: f64,
    after: f64,
    success: f64,
    queries_per_success: f64,
    /// Mean share of the words changed in successes.
    changed: f64,
    sentences_a_second: f64,
}

#[derive(Clone, Debug, Serialize)]
struct Trigger {
    words: String,
    /// Of negative sentences, those that are read as positive with the words in front.
    success: f64,
}

/// A sentence before and after, changed words in double brackets.
#[derive(Clone, Debug, Serialize)]
struct Example {
    attack: &'static str,
    before: (String, f64, String),
    after: (String, f64, String),
}

pub fn run(setting: &Setting<'_>) -> Result<Section> {
    let found = setting.progress.experiment("text", || measure(setting))?;
    let usual = &found.networks[0];
    let rows = [LETTER, WORD].map(|attack| {
        let of = &usual.attacks[attack];
        row(
            format!("{}: accuracy of a network trained as usual", of.name),
            format!("{} → {}", percent(of.before), percent(of.after)),
            format!(
                "{} queries a success, {} of the words changed",
                fixed(of.queries_per_success, 0),
                percent(of.changed)
            ),
        )
    });
    Ok(Section {
        results: serde_json::to_value(&found).expect("plain data"),
        rows: rows.into(),
        chapters: vec![Chapter {
            question: "Can a sentence be made to mean its opposite to a network, and the same to a reader?",
            answer: found.answer(),
            parts: vec![found.part(), found.training_part()],
        }],
    })
}

/// Learns from sentences attacked as the network stands, half of them by letters and half by words.
struct Rewriter<'a> {
    train: &'a Corpus,
    attacks: [&'a dyn TextAttack; 2],
    random: Random,
}

impl TrainingHook<TextCnn> for Rewriter<'_> {
    fn rewrites(&self, epoch: usize) -> bool {
        epoch > 0
    }

    fn rewrite(&mut self, _epoch: usize, classifier: &NeuralText<TextCnn>) -> adversarial::Result<Vec<Rewritten>> {
        let chosen = self.random.permutation(self.train.len());
        let count = REWRITTEN.min(chosen.len()) / 2;
        let mut rewritten = Vec::new();
        for (attack, chosen) in self.attacks.iter().zip(chosen.chunks(count)) {
            let sentences = self.train.select(chosen);
            let attacked = attack_all(*attack, classifier, &sentences)?;
            let successes =
                attacked.outcomes.iter().zip(chosen).filter(|(outcome, _)| outcome.status == TextStatus::Succeeded);
            rewritten.extend(successes.map(|(outcome, sentence)| Rewritten {
                sentence: *sentence,
                replaces: false,
                text: outcome.sentence.text(),
            }));
        }
        Ok(rewritten)
    }
}

fn attack_all(
    attack: &dyn TextAttack,
    classifier: &NeuralText<TextCnn>,
    sentences: &Corpus,
) -> adversarial::Result<TextAttacked> {
    let goals = TextGoal::untargeted_all(sentences.labels());
    TextEngine::new().run_with_gradients(attack, classifier, sentences.texts(), &goals)
}

fn measure(setting: &Setting<'_>) -> Result<Text> {
    let progress = setting.progress;
    let random = setting.random.fork("text");
    let sentences = Sentences::load(random.fork("sentences").next_u64())?;
    let language = Language::learn(&sentences.train, &sentences.vocabulary()?, None)?;
    progress.unit()?;
    let most = || MostChanged::share(CHANGED);
    let attacks: [Arc<dyn TextAttack>; 5] = [
        Arc::new(DeepWordBug::new().constraint(most())),
        Arc::new(Homoglyphs::new().constraint(most())),
        Arc::new(Pwws::new(language.synonyms.clone()).constraint(most())),
        Arc::new(TextFooler::new(language.vectors.clone()).constraint(most())),
        // The vectors of the network itself are near only where it takes words for the same.
        Arc::new(
            HotFlip::new()
                .most_flips(4)
                .least_cosine(-1.0)
                .constraint(WordSimilarity::new(language.vectors.clone(), 0.5))
                .constraint(most()),
        ),
    ];

    let chosen = random.fork("attacked").permutation(sentences.held_out.len());
    let chosen = sentences.held_out.select(&chosen[..ATTACKED.min(chosen.len())]);
    let seed = random.fork("networks").next_u64();
    let (mut networks, mut examples, mut trigger) = (Vec::new(), Vec::new(), None);
    for (index, name) in NETWORKS.into_iter().enumerate() {
        let clock = Instant::now();
        let classifier = match index {
            0 => sentences.classifier(&Standard, &mut (), seed, setting.device)?,
            1 => sentences.classifier(&Fgm::new(RADIUS)?, &mut (), seed, setting.device)?,
            _ => {
                let mut rewriter = Rewriter {
                    train: &sentences.train,
                    attacks: [&*attacks[LETTER], &*attacks[WORD]],
                    random: random.fork("rewritten"),
                };
                sentences.classifier(&Standard, &mut rewriter, seed, setting.device)?
            }
        };
        let seconds = clock.elapsed().as_secs_f64();
        let accuracy = sentences.held_out.accuracy(&classifier)?;
        progress.unit()?;
        let mut outcomes = Vec::new();
        for (at, attack) in attacks.iter().enumerate() {
            let clock = Instant::now();
            let attacked = attack_all(&**attack, &classifier, &chosen)?;
            outcomes.push(Attacked::new(ATTACKS[at], &attacked, clock.elapsed().as_secs_f64()));
            if index == 0 && [LETTER, WORD].contains(&at) {
                examples.extend(shown(ATTACKS[at], &attacked, sentences.train.classes()));
            }
            progress.unit()?;
        }
        if index == 0 {
            trigger = Some(Trigger::find(&classifier, &sentences)?);
            progress.unit()?;
        }
        networks.push(Network { name, accuracy, seconds, attacks: outcomes });
    }
    Ok(Text {
        source: sentences.source,
        synonyms: language.source,
        classes: sentences.train.classes().to_vec(),
        trained_on: sentences.train.len(),
        held_out: sentences.held_out.len(),
        networks,
        trigger: trigger.expect("found on the first network"),
        examples,
    })
}

/// The successes that a table has room for.
fn shown(attack: &'static str, attacked: &TextAttacked, classes: &[String]) -> Vec<Example> {
    let fits = |outcome: &&TextOutcome| {
        outcome.status == TextStatus::Succeeded && outcome.sentence.original().chars().count() <= LETTERS
    };
    let said = |prediction: &adversarial::text::Prediction| (classes[prediction.class].clone(), prediction.probability);
    let example = |outcome: &TextOutcome| {
        let (before, after) = (outcome.before.as_ref()?, outcome.after.as_ref()?);
        let ((was, p), (is, q)) = (said(before), said(after));
        Some(Example {
            attack,
            before: (was, p, outcome.sentence.marked_original()),
            after: (is, q, outcome.sentence.marked()),
        })
    };
    attacked.outcomes.iter().filter(fits).filter_map(example).take(SHOWN).collect()
}

impl Trigger {
    /// Three words in front of negative sentences, found on those of the training set.
    fn find(classifier: &NeuralText<TextCnn>, sentences: &Sentences) -> Result<Self> {
        let of_negative = |corpus: &Corpus| {
            let chosen: Vec<usize> = (0..corpus.len()).filter(|i| corpus.labels()[*i] == 0).collect();
            corpus.select(&chosen)
        };
        let (train, held_out) = (of_negative(&sentences.train), of_negative(&sentences.held_out));
        let goals = |corpus: &Corpus| vec![TextGoal::targeted(0, 1); corpus.len()];
        let trigger = UniversalTrigger::new().exclude(StopWords::english());
        let trigger = trigger.find(classifier, train.texts(), &goals(&train))?;
        let report = trigger.report(classifier, held_out.texts(), &goals(&held_out))?;
        Ok(Self { words: trigger.words.join(" "), success: report.success_rate() })
    }
}

impl Attacked {
    fn new(name: &'static str, attacked: &TextAttacked, seconds: f64) -> Self {
        Self {
            name,
            before: attacked.accuracy_before(),
            after: attacked.accuracy_after(),
            success: attacked.success_rate(),
            queries_per_success: attacked.queries_per_success(),
            changed: attacked.mean_changed(),
            sentences_a_second: attacked.outcomes.len() as f64 / seconds,
        }
    }
}

impl Text {
    fn answer(&self) -> String {
        let usual = &self.networks[0];
        let [letters, words] = [LETTER, WORD].map(|attack| &usual.attacks[attack]);
        let least = |fallen: f64| if fallen >= 0.3 { "Yes" } else { "Not often" };
        format!(
            "{}: a network that reads {} of held-out sentences right is down to {} of {ATTACKED} after misspellings ({}) and to {} after exchanging words for \
             near ones ({}), with at most {:.0} % of the words changed; “{}” in front of any negative sentence makes {} of them positive.",
            least(letters.before - letters.after.max(words.after)),
            percent(usual.accuracy),
            percent(letters.after),
            letters.name,
            percent(words.after),
            words.name,
            100.0 * CHANGED,
            self.trigger.words,
            percent(self.trigger.success)
        )
    }

    fn part(&self) -> Part {
        let usual = &self.networks[0];
        let rows = usual.attacks.iter().map(|of| {
            vec![
                of.name.to_owned(),
                percent(of.before),
                percent(of.after),
                percent(of.success),
                fixed(of.queries_per_success, 1),
                percent(of.changed),
                fixed(of.sentences_a_second, 1),
            ]
        });
        Part {
            title: "A sentence, and the same in other letters or words",
            text: format!(
                "{} {}, {} held out; a convolutional network (Kim, 2014) after {} s. {ATTACKED} held-out sentences under attacks that may change at most {:.0} % of the \
                 words and no word twice. DeepWordBug misspells the words that matter most, homoglyphs take letters of other scripts that look the same, PWWS takes \
                 synonyms ({}), TextFooler words of near vectors and the same part of speech in sentences that stay similar, HotFlip near words by what the gradient promises. \
                 A success is a sentence read wrong that was read right.",
                self.trained_on + self.held_out,
                self.source,
                self.held_out,
                fixed(usual.seconds, 1),
                100.0 * CHANGED,
                self.synonyms
            ),
            figures: vec![self.table_of_examples()],
            table: (
                vec![
                    "attack",
                    "right before",
                    "right after",
                    "successes",
                    "queries a success",
                    "words changed",
                    "sentences a second",
                ],
                rows.collect(),
            ),
        }
    }

    /// Prediction and percentage before and after, changed words marked.
    fn table_of_examples(&self) -> String {
        let mut html = String::from(
            "<figure class=\"plot sentences\">\n<figcaption><h3>Before and after</h3></figcaption>\n<div class=\"scroll\"><table>\n\
             <tr><th class=\"name\">attack</th><th class=\"name\">read as</th><th class=\"name\">sentence</th></tr>\n",
        );
        let marked = |text: &str| escape(text).replace("[[", "<mark>").replace("]]", "</mark>");
        for example in &self.examples {
            for (attack, (class, probability, text)) in [(example.attack, &example.before), ("", &example.after)] {
                let _ = writeln!(
                    html,
                    "<tr><td>{}</td><td>{} ({:.0} %)</td><td>{}</td></tr>",
                    escape(attack),
                    escape(class),
                    100.0 * probability,
                    marked(text)
                );
            }
        }
        html + "</table></div>\n</figure>\n"
    }

    fn training_part(&self) -> Part {
        let mut head = vec!["network", "clean", "seconds"];
        head.extend(ATTACKS);
        let rows = self.networks.iter().map(|network| {
            let mut row = vec![network.name.to_owned(), percent(network.accuracy), fixed(network.seconds, 1)];
            row.extend(network.attacks.iter().map(|attack| percent(attack.after)));
            row
        });
        let bars = [LETTER, WORD].map(|attack| {
            let title = format!("Right under {}", ATTACKS[attack]);
            let bars = self.networks.iter().enumerate().map(|(index, network)| {
                let value = 100.0 * network.attacks[attack].after;
                Bar {
                    name: network.name.into(),
                    value,
                    label: format!("{} %", fixed(value, 1)),
                    class: ["s1", "s2", "s3"][index],
                }
            });
            Bars { title: &title, axis: "sentences read right, %", end: 100.0, bars: bars.collect() }.html()
        });
        Part {
            title: "Training against it",
            text: format!(
                "The same network from the same weights, {EPOCHS} epochs: with its word vectors moved along the gradient by {RADIUS} a sentence (FGM; Miyato and others, 2017), \
                 and with sentences of the training set added before each epoch that DeepWordBug and TextFooler have turned ({REWRITTEN} are tried). Attacks are made \
                 anew for each network. {ATTACKED} sentences are good for ±7 points."
            ),
            figures: bars.into(),
            table: (head, rows.collect()),
        }
    }
}
