//! `lab study`: experiments that answer the questions one asks of a family of techniques, with a report.
//!
//! A study is a list of experiments. Each measures, and turns its numbers into a [`Part`] of the report; the study puts the
//! parts into [`Chapter`]s, one a question, and answers it from the numbers. Nothing is written before all of it is done:
//!
//! ```text
//! OUT/report.html    questions, answers, figures, tables; one file, nothing fetched
//! OUT/results.json   every number
//! ```

pub mod adversarial;
pub mod clipping;
pub mod examples;
pub mod meta;
pub mod multitask;
pub mod precision;
mod toolkit;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use burn::tensor::Device;
use core_tensor::Random;

use crate::data::Dataset;
use crate::error::Result;
use crate::recipe::DataRecipe;
use crate::report::{escape, page, results, table};
use crate::run_dir::NewFolder;
use crate::summary::Row;
use crate::train::{choose_device, device_name};
pub use toolkit::Progress;

/// What there is to study.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Study {
    /// Gradient clipping.
    Clipping,
    /// Low precision.
    Precision,
    /// Adversarial learning.
    Adversarial,
    /// Multi-task learning.
    Multitask,
    /// Bilevel and meta-learning.
    Meta,
    /// The lecture's examples.
    Examples,
}

impl Study {
    /// Every study, in the order of a report on all.
    pub const ALL: &'static [Self] =
        &[Self::Clipping, Self::Precision, Self::Adversarial, Self::Multitask, Self::Meta, Self::Examples];

    /// Its name on the command line and in `results.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clipping => "clipping",
            Self::Precision => "precision",
            Self::Adversarial => "adversarial",
            Self::Multitask => "multitask",
            Self::Meta => "meta",
            Self::Examples => "examples",
        }
    }

    /// Whether it runs on other images than the embedded digits too.
    pub fn takes_data(self) -> bool {
        matches!(self, Self::Adversarial | Self::Multitask)
    }

    fn title(self) -> &'static str {
        match self {
            Self::Clipping => "Gradient clipping",
            Self::Precision => "Low precision",
            Self::Adversarial => "Adversarial learning",
            Self::Multitask => "Multi-task learning",
            Self::Meta => "Bilevel and meta-learning",
            Self::Examples => "The lecture's examples",
        }
    }

    /// Units of work, for a bar to count.
    fn units(self) -> u64 {
        match self {
            Self::Clipping => clipping::UNITS,
            Self::Precision => precision::UNITS,
            Self::Adversarial => adversarial::UNITS,
            Self::Multitask => multitask::UNITS,
            Self::Meta => meta::UNITS,
            Self::Examples => examples::UNITS,
        }
    }

    fn run(self, setting: &Setting<'_>) -> Result<Finding> {
        match self {
            Self::Clipping => clipping::run(setting),
            Self::Precision => precision::run(setting),
            Self::Adversarial => adversarial::run(setting),
            Self::Multitask => multitask::run(setting),
            Self::Meta => meta::run(setting),
            Self::Examples => examples::run(setting),
        }
    }
}

/// What every experiment is given.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// The device of the networks.
    pub device: &'a Device,
    /// Where all randomness comes from, by a fork for each experiment.
    pub random: &'a Random,
    /// The images of studies that leave the choice ([`Study::takes_data`]).
    pub data: &'a Dataset,
    /// To be told of each unit of work, and to ask whether to go on.
    pub progress: &'a Progress<'a>,
}

/// What is told while a study is going on.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// It begins, with so many units of work.
    Begin(u64),
    /// A unit is done.
    Unit,
    /// An experiment is done.
    Experiment {
        /// What it was about.
        title: &'a str,
        /// Seconds it took.
        seconds: f64,
    },
}

/// What a study came to.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Every number.
    pub results: serde_json::Value,
    /// The figures of the printed table.
    pub rows: Vec<Row>,
    /// The questions with their answers.
    pub chapters: Vec<Chapter>,
}

/// A question, its answer, and what the answer is drawn from.
#[derive(Clone, Debug)]
pub struct Chapter {
    /// The question.
    pub question: &'static str,
    /// One sentence, made of the numbers measured.
    pub answer: String,
    /// In order.
    pub parts: Vec<Part>,
}

/// An experiment in a report.
#[derive(Clone, Debug)]
pub struct Part {
    /// What it is about.
    pub title: &'static str,
    /// What was done and what it shows.
    pub text: String,
    /// `figure` elements.
    pub figures: Vec<String>,
    /// The names of the columns and the rows of its numbers.
    pub table: (Vec<&'static str>, Vec<Vec<String>>),
}

/// A finished study on disk.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its folder.
    pub folder: PathBuf,
    /// What was run, in one line.
    pub headline: String,
    /// The figures of the printed table.
    pub rows: Vec<Row>,
    /// Questions and answers.
    pub answers: Vec<(&'static str, String)>,
}

/// Runs studies and writes their report and numbers into a new folder; `stop`, once true, ends it without either. `data` is for the
/// studies that take other images than the embedded digits.
///
/// # Errors
/// Those of the folder and the data before anything is computed, those of the device, of an interruption and of the computation ([`Error`](crate::error::Error)). No folder
/// is left then.
pub fn run(
    studies: &[Study],
    data: &DataRecipe,
    seed: u64,
    folder: &Path,
    stop: &AtomicBool,
    observe: &(dyn Fn(Event<'_>) + Sync),
) -> Result<Outcome> {
    let clock = Instant::now();
    let data = Dataset::load(data)?;
    let new = NewFolder::begin(folder, "choose another --out")?;
    let device = choose_device()?;
    let (random, progress) = (Random::new(seed), Progress::new(stop, observe));
    let setting = Setting { device: &device, random: &random, data: &data, progress: &progress };
    observe(Event::Begin(studies.iter().map(|study| study.units()).sum()));
    let findings: Vec<Finding> = studies.iter().map(|study| study.run(&setting)).collect::<Result<_>>()?;
    let seconds = clock.elapsed().as_secs_f64();
    let headline = format!("{}, seed {seed}, {seconds:.0} s on {}", titles(studies).join(", "), device_name(&device));
    let results: serde_json::Map<_, _> =
        studies.iter().zip(&findings).map(|(study, found)| (study.name().to_owned(), found.results.clone())).collect();
    let document =
        serde_json::json!({ "seed": seed, "seconds": seconds, "device": device_name(&device), "studies": results });
    let text = serde_json::to_string_pretty(&document).expect("a study's results are plain data");
    new.write("results.json", text + "\n")?;
    new.write("report.html", report(studies, &headline, &findings))?;
    new.finish()?;
    let answers = findings.iter().flat_map(|found| &found.chapters);
    Ok(Outcome {
        folder: folder.to_owned(),
        headline,
        answers: answers.map(|chapter| (chapter.question, chapter.answer.clone())).collect(),
        rows: findings.into_iter().flat_map(|found| found.rows).collect(),
    })
}

fn titles(studies: &[Study]) -> Vec<&'static str> {
    studies.iter().map(|study| study.title()).collect()
}

fn report(studies: &[Study], headline: &str, findings: &[Finding]) -> String {
    let mut body = String::new();
    for found in findings {
        for chapter in &found.chapters {
            let _ = write!(
                body,
                "<section>\n<h2>{}</h2>\n<p class=\"answer\">{}</p>\n",
                escape(chapter.question),
                escape(&chapter.answer)
            );
            chapter.parts.iter().for_each(|part| body += &part.html());
            body += "</section>\n";
        }
        let _ = write!(body, "<section>\n<h2>In short</h2>\n{}</section>\n", results(&found.rows));
    }
    page(&format!("Study: {}", titles(studies).join(", ").to_lowercase()), headline, &body)
}

impl Part {
    fn html(&self) -> String {
        let figures = match self.figures.is_empty() {
            true => String::new(),
            false => format!("<div class=\"plots\">\n{}</div>\n", self.figures.concat()),
        };
        let (head, rows) = &self.table;
        format!(
            "<section class=\"part\">\n<h3>{}</h3>\n<p>{}</p>\n{figures}{}</section>\n",
            escape(self.title),
            escape(&self.text),
            table(head, rows)
        )
    }
}
