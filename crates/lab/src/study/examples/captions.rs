//! Captions under attack: a model that describes drawn scenes, and images that make it describe other scenes.

use std::fmt::Write as _;

use adversarial::caption::{
    AttackedCaptions, CaptionGoal, CaptionLoss, CaptionOutcome, Captioner, RecordedCaptioner, ShowAndFool, ShowAndTell,
    ShowAndTellShape, TeacherForcing, Vocabulary,
};
use burn::tensor::{Device, Tensor, TensorData};
use core_tensor::Random;
use serde::Serialize;

use super::{Section, percent, row};
use crate::error::Result;
use crate::report::image::colour_address;
use crate::report::plot::fixed;
use crate::scene::drawing::bytes;
use crate::scene_captions::{MOST_WORDS, SIDE, Scenes, VALUES, WORDS};
use crate::study::toolkit::median;
use crate::study::{Chapter, Part, Setting};
use crate::summary::Row;

/// Scenes that are trained on.
const TRAIN: usize = 20000;
/// Scenes that captions are measured on; attacked are the first that are described right.
const HELD: usize = 500;
/// Scenes attacked for each kind of goal.
const ATTACKED: usize = 24;
/// Batches of training, and their size.
const STEPS: usize = 2400;
const BATCH: usize = 64;
/// Steps of training that are a unit of work.
const STEPS_A_UNIT: usize = 200;
/// Times that the perturbation is strengthened where it is drawn.
const STRENGTH: f32 = 8.0;

pub const UNITS: u64 = (STEPS / STEPS_A_UNIT + KINDS) as u64;

/// Kinds of goals.
const KINDS: usize = 7;

/// What is asked for, of each image.
#[derive(Clone, Debug, Serialize)]
pub struct Kind {
    pub goal: &'static str,
    /// Images whose caption did not reach it before.
    pub attacked: usize,
    /// Share of them that were made to.
    pub success: f64,
    /// Medians over the successes of the perturbation's `L2` norm, its largest value, and its root mean square.
    pub median_distance: f64,
    pub median_largest: f64,
    pub median_rms: f64,
    /// Mean over the images.
    pub gradients: f64,
    /// Share of the successes that are successes by beam search too.
    pub by_beams: f64,
}

/// A scene before and after.
#[derive(Clone, Debug, Serialize)]
pub struct Pair {
    pub goal: String,
    pub before: String,
    pub after: String,
    pub distance: f64,
    #[serde(skip)]
    clean: Vec<f32>,
    #[serde(skip)]
    adversarial: Vec<f32>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Captions {
    /// Share of held-out scenes that are described exactly right.
    pub exact: f64,
    pub training_seconds: f64,
    pub kinds: Vec<Kind>,
    pub drawn: Vec<Pair>,
}

type Subject = RecordedCaptioner<ShowAndTell>;

pub fn run(setting: &Setting<'_>) -> Result<Section> {
    let found = setting.progress.experiment("captions", || measure(setting))?;
    Ok(Section {
        results: serde_json::to_value(&found).expect("plain data"),
        rows: found.rows(),
        chapters: vec![Chapter {
            question: "Can a picture be made to be described as something else?",
            answer: found.answer(),
            parts: vec![found.part()],
        }],
    })
}

fn measure(setting: &Setting<'_>) -> Result<Captions> {
    let random = setting.random.fork("captions");
    let held = Scenes::draw(HELD, &mut random.fork("held out"));
    let clock = std::time::Instant::now();
    let captioner = train(&random, setting)?;
    let training_seconds = clock.elapsed().as_secs_f64();
    let described = captioner.greedy(images(&held.images, setting.device))?;
    let right: Vec<usize> =
        (0..HELD).filter(|i| captioner.vocabulary().spell(&described[*i]) == held.captions[*i]).collect();
    let chosen: Vec<usize> = right.iter().copied().take(ATTACKED).collect();
    let clean: Vec<f32> = chosen.iter().flat_map(|i| &held.images[i * VALUES..(i + 1) * VALUES]).copied().collect();
    let before: Vec<&str> = chosen.iter().map(|i| held.captions[*i].as_str()).collect();
    let others: Vec<&str> = held.captions.iter().map(String::as_str).collect();

    let (mut kinds, mut drawn) = (Vec::new(), Vec::new());
    let mut targets = random.fork("targets");
    let asked: [(&'static str, ShowAndFool, Vec<CaptionGoal>, usize); KINDS] = [
        ("the caption of another scene, as long", hinge(), captions(&before, &others, true, &mut targets), 3),
        ("the caption of another scene, not as long", hinge(), captions(&before, &others, false, &mut targets), 3),
        (
            "the same, by log-likelihood",
            hinge().loss(CaptionLoss::LogProbability),
            captions(&before, &others, false, &mut targets),
            0,
        ),
        ("one keyword", hinge(), keywords(&before, &others, 1, &mut targets), 1),
        ("two keywords", hinge(), keywords(&before, &others, 2, &mut targets), 1),
        ("three keywords", hinge(), keywords(&before, &others, 3, &mut targets), 2),
        ("no longer the first thing's colour and shape", hinge(), left_out(&before), 2),
    ];
    for (goal, attack, goals, pictures) in asked {
        let found = attack.attack(&captioner, &images(&clean, setting.device), &goals)?;
        let adversarial: Vec<f32> = found.images.to_data().iter().collect();
        kinds.push(kind(goal, &captioner, &found, &goals)?);
        let broken =
            found.outcomes.iter().enumerate().filter(|(_, outcome)| outcome.gradients > 0 && outcome.reached());
        drawn.extend(broken.take(pictures).map(|(i, outcome)| Pair {
            goal: goals[i].to_string(),
            before: outcome.before.clone(),
            after: outcome.after.clone(),
            distance: outcome.distance,
            clean: clean[i * VALUES..(i + 1) * VALUES].to_vec(),
            adversarial: adversarial[i * VALUES..(i + 1) * VALUES].to_vec(),
        }));
        setting.progress.unit()?;
    }
    Ok(Captions { exact: right.len() as f64 / HELD as f64, training_seconds, kinds, drawn })
}

/// Faster than by default: half of the constants that are tried would fail for want of steps.
fn hinge() -> ShowAndFool {
    ShowAndFool::new().rate(0.02)
}

fn train(random: &Random, setting: &Setting<'_>) -> Result<Subject> {
    let scenes = Scenes::draw(TRAIN, &mut random.fork("train"));
    let vocabulary = Vocabulary::new(WORDS, ".")?;
    let encoded = scenes.captions.iter().map(|caption| vocabulary.encode(caption));
    let captions: Vec<Vec<usize>> = encoded.collect::<adversarial::Result<_>>()?;
    let image = [3, SIDE, SIDE];
    let shape = ShowAndTellShape { image, channels: vec![16, 32, 48], hidden: 160, words: vocabulary.len() };
    let model = ShowAndTell::new(&shape, &mut random.fork("weights"), &setting.device.clone().autodiff())?;
    let training = TeacherForcing::new().steps(STEPS).batch(BATCH).rate(0.005).seed(random.fork("batches").next_u64());
    let mut told = Ok(());
    let mut observe = |step: usize, _: f64| {
        if (step + 1).is_multiple_of(STEPS_A_UNIT) {
            told = setting.progress.unit();
        }
        told.is_ok()
    };
    let images = images(&scenes.images, setting.device);
    let model = training.fit(model, ShowAndTell::forward, &vocabulary, &images, &captions, &mut observe)?;
    told?;
    let (end, most) = (vocabulary.end(), MOST_WORDS + 1);
    let captioner = RecordedCaptioner::new(&model, vocabulary, image, most, ShowAndTell::forward)?;
    Ok(captioner.decoder(move |model, images| model.decode(images, end, end, most)))
}

fn images(values: &[f32], device: &Device) -> Tensor<4> {
    let count = values.len() / VALUES;
    Tensor::from_data(TensorData::new(values.to_vec(), [count, 3, SIDE, SIDE]), device)
}

/// For each caption that of another scene, of as many words or of another number of them.
fn captions(before: &[&str], others: &[&str], as_long: bool, random: &mut Random) -> Vec<CaptionGoal> {
    let length = |caption: &str| caption.split(' ').count();
    let goal = |caption: &&str| {
        let fits = |other: &&&str| **other != *caption && (length(other) == length(caption)) == as_long;
        let fitting: Vec<&&str> = others.iter().filter(fits).collect();
        CaptionGoal::caption(*fitting[random.below(fitting.len() as u64) as usize])
    };
    before.iter().map(goal).collect()
}

/// For each caption so many words of another one's that it lacks.
fn keywords(before: &[&str], others: &[&str], count: usize, random: &mut Random) -> Vec<CaptionGoal> {
    let mut lacks = |caption: &str| loop {
        let other = others[random.below(others.len() as u64) as usize];
        let mut new: Vec<&str> =
            other.split(' ').filter(|word| !caption.split(' ').any(|said| said == *word)).collect();
        new.retain(|word| !["a", "of", "on", "at"].contains(word));
        new.sort_unstable();
        new.dedup();
        if new.len() >= count {
            let order = random.permutation(new.len());
            return order[..count].iter().map(|i| new[*i]).collect::<Vec<_>>();
        }
    };
    before.iter().map(|caption| CaptionGoal::keywords(lacks(caption))).collect()
}

/// Colour and shape of the first thing: the third and the fourth word.
fn left_out(before: &[&str]) -> Vec<CaptionGoal> {
    before.iter().map(|caption| CaptionGoal::without(caption.split(' ').skip(2).take(2))).collect()
}

fn kind(goal: &'static str, captioner: &Subject, found: &AttackedCaptions, goals: &[CaptionGoal]) -> Result<Kind> {
    let broken: Vec<(&CaptionOutcome, &CaptionGoal)> =
        found.outcomes.iter().zip(goals).filter(|(outcome, _)| outcome.gradients > 0 && outcome.reached()).collect();
    let attacked = found.outcomes.iter().filter(|outcome| outcome.gradients > 0).count();
    let beams = captioner.beam(found.images.clone(), 3)?;
    let agree = found.outcomes.iter().zip(goals).zip(&beams).filter(|((outcome, goal), words)| {
        outcome.gradients > 0 && outcome.reached() && goal.reached_by(&captioner.vocabulary().spell(words))
    });
    let rms = |outcome: &CaptionOutcome| outcome.distance / (VALUES as f64).sqrt();
    Ok(Kind {
        goal,
        attacked,
        success: found.success(),
        median_distance: median(broken.iter().map(|(outcome, _)| outcome.distance)),
        median_largest: median(broken.iter().map(|(outcome, _)| outcome.largest)),
        median_rms: median(broken.iter().map(|(outcome, _)| rms(outcome))),
        gradients: found.outcomes.iter().map(|outcome| outcome.gradients as f64).sum::<f64>() / attacked as f64,
        by_beams: agree.count() as f64 / broken.len() as f64,
    })
}

impl Captions {
    pub fn answer(&self) -> String {
        let [same, other] = [&self.kinds[0], &self.kinds[1]];
        let keywords = &self.kinds[3..6];
        let [least, most] = [f64::min as fn(f64, f64) -> f64, f64::max]
            .map(|pick| keywords.iter().map(|kind| kind.success).reduce(pick).unwrap_or(f64::NAN));
        let [near, far] = [f64::min as fn(f64, f64) -> f64, f64::max]
            .map(|pick| self.kinds.iter().map(|kind| kind.median_rms).reduce(pick).unwrap_or(f64::NAN));
        let of_keywords = match percent(least) == percent(most) {
            true => percent(most),
            false => format!("{} to {}", percent(least), percent(most)),
        };
        format!(
            "Yes, word for word: a captioner that describes {} of new scenes exactly is made to write the caption of another scene in {} of \
             cases where it is as long and in {} where it is not, and to say one to three keywords in {of_keywords}; the median change of a \
             value is {} to {} of the range from 0 to 1, root mean square.",
            percent(self.exact),
            percent(same.success),
            percent(other.success),
            fixed(near, 4),
            fixed(far, 4),
        )
    }

    pub fn rows(&self) -> Vec<Row> {
        let of = |kind: &Kind| {
            let note = format!("at {} in L2, {} gradients", fixed(kind.median_distance, 2), fixed(kind.gradients, 0));
            row(format!("{}: reached", kind.goal), percent(kind.success), note)
        };
        self.kinds.iter().map(of).collect()
    }

    pub fn part(&self) -> Part {
        let rows = self.kinds.iter().map(|kind| {
            vec![
                kind.goal.to_owned(),
                kind.attacked.to_string(),
                percent(kind.success),
                fixed(kind.median_distance, 2),
                fixed(kind.median_largest, 3),
                fixed(kind.median_rms, 4),
                fixed(kind.gradients, 0),
                percent(kind.by_beams),
            ]
        });
        Part {
            title: "A scene, a perturbation, another scene",
            text: format!(
                "A small model of convolutions and a gated recurrent unit learns to describe drawn scenes of {SIDE} × {SIDE} pixels in {} s. \
                 Show-and-Fool changes {ATTACKED} new scenes for each kind of goal; a success is what greedy decoding of the changed image \
                 writes, word for word for captions. Distances are medians over the successes, of values from 0 to 1. The perturbations are drawn \
                 {STRENGTH} times as strong as they are.",
                fixed(self.training_seconds, 0)
            ),
            figures: vec![self.figure()],
            table: (
                vec![
                    "goal",
                    "images",
                    "reached",
                    "L2",
                    "largest change",
                    "root mean square",
                    "gradients an image",
                    "of these by 3 beams",
                ],
                rows.collect(),
            ),
        }
    }

    /// Three images a row: before, what is added, after.
    fn figure(&self) -> String {
        let mut html = "<figure class=\"triples\">\n<figcaption><h3>Scene + perturbation = another scene's words</h3></figcaption>\n<ul>".to_owned();
        for pair in &self.drawn {
            let image = |alt: &str, values: &[f32]| {
                format!("<img alt=\"{alt}\" src=\"{}\"/>", colour_address(&bytes(values), SIDE))
            };
            let change: Vec<f32> = pair
                .adversarial
                .iter()
                .zip(&pair.clean)
                .map(|(after, before)| 0.5 + STRENGTH * (after - before))
                .collect();
            let _ = write!(
                html,
                "<li>{}<span>+</span>{}<span>=</span>{}<small><span class=\"name\">{}</span> → <span class=\"name\">{}</span> \
                 (asked: {}; {} in L2)</small></li>",
                image(&pair.before, &pair.clean),
                image("the perturbation", &change),
                image(&pair.after, &pair.adversarial),
                pair.before,
                pair.after,
                pair.goal,
                fixed(pair.distance, 2),
            );
        }
        html += "</ul>\n</figure>\n";
        html
    }
}
