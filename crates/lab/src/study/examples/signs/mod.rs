//! Road signs: a network that reads them, stickers on a stop sign, a patch that lies anywhere.

mod patch;
mod stickers;

use adversarial::physical::{ImageMap, Photograph, Photographs};
use core_tensor::Random;
use serde::Serialize;

use super::network::{Pictures, Trained, predictions, train};
use super::pictures::Read;
use super::{Section, percent, row};
use crate::error::Result;
use crate::report::bars::{Bar, Bars};
use crate::report::plot::fixed;
use crate::scene::sign::{SIDE, Sign, Views, scene};
use crate::study::{Chapter, Part, Setting};

const TRAINED_ON: usize = 3200;
const HELD_OUT: usize = 800;
const EPOCHS: usize = 12;
/// From where the network sees signs when it is trained.
const VIEWS: Views = Views { distance: [4.0, 10.0], angle: [0.0, 60.0] };

pub const UNITS: u64 = 1 + stickers::UNITS + patch::UNITS;

#[derive(Clone, Debug, Serialize)]
struct Results {
    network: Reading,
    stickers: stickers::Stickers,
    patch: patch::Patches,
}

/// How well the network reads signs that it has not seen.
#[derive(Clone, Debug, Serialize)]
struct Reading {
    accuracy: f64,
    /// By class.
    accuracies: Vec<(&'static str, f64)>,
    seconds: f64,
}

pub fn run(setting: &Setting<'_>) -> Result<Section> {
    let progress = setting.progress;
    let network = progress.experiment("a network for road signs", || network(setting))?;
    let found = Results {
        network: Reading {
            accuracy: network.accuracy,
            accuracies: Sign::ALL.iter().map(|sign| sign.name()).zip(network.accuracies.iter().copied()).collect(),
            seconds: network.seconds,
        },
        stickers: progress.experiment("stickers on a stop sign", || stickers::run(&network, setting))?,
        patch: progress.experiment("a printed patch", || patch::run(&network, setting))?,
    };
    let mut rows = vec![row(
        "road signs: read right",
        percent(network.accuracy),
        format!("of {HELD_OUT} held-out pictures, 8 classes, 4 to 10 m, up to 60°"),
    )];
    rows.extend(found.stickers.rows());
    rows.extend(found.patch.rows());
    Ok(Section {
        results: serde_json::to_value(&found).expect("plain data"),
        rows,
        chapters: vec![
            Chapter {
                question: "Can stickers make a speed limit of a stop sign?",
                answer: found.stickers.answer(),
                parts: vec![found.network.part(), found.stickers.part()],
            },
            Chapter {
                question: "Can one printed patch mislead wherever it lies?",
                answer: found.patch.answer(),
                parts: vec![found.patch.part()],
            },
        ],
    })
}

fn network(setting: &Setting<'_>) -> Result<Trained> {
    let random = setting.random.fork("signs");
    let data = pictures(TRAINED_ON, &random.fork("training pictures"))?;
    let held_out = pictures(HELD_OUT, &random.fork("held-out pictures"))?;
    let trained = train(&data, &held_out, Sign::ALL.len(), EPOCHS, &random, setting.device)?;
    setting.progress.unit()?;
    Ok(trained)
}

/// Signs of all classes in turn.
fn pictures(count: usize, random: &Random) -> Result<Pictures> {
    Pictures::draw(count, Sign::ALL.len(), SIDE, random, |class, random| {
        Ok(scene(Sign::ALL[class], &VIEWS, random)?.seen())
    })
}

/// Photographs of a sign, for prints of `side` pixels a side on its face.
fn photographs(
    sign: Sign,
    views: Views,
    side: usize,
) -> impl Fn(&mut Random) -> adversarial::Result<Photograph> + Sync {
    move |random| {
        let scene = scene(sign, &views, random)?;
        let place = ImageMap::printed([3, side, side], scene.picture.shape(), &scene.place, 3)?;
        Photograph::new(scene.picture.pixels, place)?.light(scene.light)
    }
}

/// What the network reads in a picture.
fn read(network: &Trained, pixels: Vec<f32>) -> Result<Read> {
    let (class, confidence) = predictions(&network.classifier, &pixels, SIDE)?[0];
    Ok(Read { class: Sign::ALL[class].name(), confidence, pixels })
}

/// The share of photographs without any print that are not read as what they show.
fn missed(network: &Trained, photographs: &Photographs<'_>, sign: Sign, count: usize, random: &Random) -> Result<f64> {
    let one = |i: usize| Ok(photographs(&mut random.fork((i as u64).to_le_bytes()))?.without());
    let pixels = (0..count).map(one).collect::<Result<Vec<_>>>()?.concat();
    let read = predictions(&network.classifier, &pixels, SIDE)?;
    Ok(read.iter().filter(|(class, _)| *class != sign.class()).count() as f64 / count as f64)
}

impl Reading {
    fn part(&self) -> Part {
        let bar = |(name, accuracy): &(&'static str, f64)| Bar {
            name: (*name).into(),
            value: 100.0 * accuracy,
            label: percent(*accuracy),
            class: "s1",
        };
        let bars = Bars {
            title: "Signs read right",
            axis: "held-out pictures of the class, %",
            end: 100.0,
            bars: self.accuracies.iter().map(bar).collect(),
        };
        Part {
            title: "A network that reads signs",
            text: format!(
                "Three convolutions and two linear layers, trained on {TRAINED_ON} rendered pictures of {SIDE} × {SIDE} pixels in {} s: signs of \
                 0.75 m from 4 to 10 m, up to 60° to either side, in streets and light of many kinds. It reads {} of {HELD_OUT} others \
                 right.",
                fixed(self.seconds, 1),
                percent(self.accuracy)
            ),
            figures: vec![bars.html()],
            table: (
                vec!["sign", "read right"],
                self.accuracies.iter().map(|(name, share)| vec![(*name).into(), percent(*share)]).collect(),
            ),
        }
    }
}
