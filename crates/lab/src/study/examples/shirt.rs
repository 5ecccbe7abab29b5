//! The T-shirt: a print that hides whoever wears it from a detector of people.

use adversarial::Goal;
use adversarial::physical::{ImageMap, Photograph, Photographs, Print, Rp2, Transform};
use core_tensor::Random;
use serde::Serialize;

use super::network::{Pictures, Trained, predictions, train};
use super::pictures::{Pair, Read, figure};
use super::{Section, percent, row};
use crate::error::Result;
use crate::report::plot::{Line, Plot, fixed};
use crate::scene::person::{PRINT, SIDE, nobody, person};
use crate::study::{Chapter, Part, Setting};

const TRAINED_ON: usize = 2400;
const HELD_OUT: usize = 600;
const EPOCHS: usize = 10;
const CLASSES: [&str; 2] = ["nobody", "a person"];
const NOBODY: usize = 0;
const PERSON: usize = 1;
/// Rows and columns of the print.
const GRID: [usize; 2] = [20, 15];
/// Points of the cloth a side.
const POINTS: usize = 4;
/// The most that a point of the cloth is moved, as shares of the print's width: what one print is made for, and those measured.
const FOLDS: f64 = 0.3;
const MEASURED: [f64; 5] = [0.0, 0.1, 0.2, 0.3, 0.4];
const STEPS: usize = 300;
const SAMPLES: usize = 24;
/// People of a point of the curves.
const COUNT: usize = 400;

pub const UNITS: u64 = 5;

#[derive(Clone, Debug, Serialize)]
struct Shirt {
    accuracy: f64,
    /// Share of held-out people found.
    people: f64,
    seconds: f64,
    /// The most that a point of the cloth is moved, cm.
    folds: Vec<f64>,
    curves: Vec<Curve>,
    pairs: Vec<Pair>,
    #[serde(skip)]
    print: Vec<f32>,
}

/// Share of people not found, by the folds.
#[derive(Clone, Debug, Serialize)]
struct Curve {
    name: &'static str,
    hidden: Vec<f64>,
}

pub fn run(setting: &Setting<'_>) -> Result<Section> {
    let progress = setting.progress;
    let network = progress.experiment("a detector of people", || network(setting))?;
    let found = progress.experiment("the T-shirt", || attack(&network, setting))?;
    let at = found.curve_at_folds();
    Ok(Section {
        results: serde_json::to_value(&found).expect("plain data"),
        rows: vec![
            row(
                "people: found",
                percent(found.people),
                format!("of held-out pictures; right in all {}", percent(found.accuracy)),
            ),
            row(
                "T-shirt on moving cloth: not found",
                percent(at[0]),
                format!(
                    "made without cloth {}, print at random {}, plain {}",
                    percent(at[1]),
                    percent(at[2]),
                    percent(at[3])
                ),
            ),
        ],
        chapters: vec![Chapter {
            question: "Can a T-shirt hide who wears it?",
            answer: found.answer(),
            parts: vec![found.part()],
        }],
    })
}

fn network(setting: &Setting<'_>) -> Result<Trained> {
    let random = setting.random.fork("people");
    let draw = |count: usize, label: &str| {
        Pictures::draw(count, CLASSES.len(), SIDE, &random.fork(label), |class, random| {
            Ok(if class == PERSON { person(random)? } else { nobody(random)? }.seen())
        })
    };
    let (data, held_out) = (draw(TRAINED_ON, "training pictures")?, draw(HELD_OUT, "held-out pictures")?);
    let trained = train(&data, &held_out, CLASSES.len(), EPOCHS, &random, setting.device)?;
    setting.progress.unit()?;
    Ok(trained)
}

/// Photographs of people; points of the cloth are moved by at most `folds` of the print's width.
fn photographs(folds: f64) -> impl Fn(&mut Random) -> adversarial::Result<Photograph> + Sync {
    move |random| {
        let scene = person(random)?;
        let shape = [3, GRID[0], GRID[1]];
        let cloth = Transform::Cloth { side: POINTS, most: folds * GRID[1] as f64 }.draw(shape, random)?;
        let place = scene.print.expect("a person wears a shirt");
        let place = cloth.then(ImageMap::printed(shape, scene.picture.shape(), &place, 3)?)?;
        Photograph::new(scene.picture.pixels, place)?.light(scene.light)
    }
}

fn attack(network: &Trained, setting: &Setting<'_>) -> Result<Shirt> {
    let random = setting.random.fork("shirt");
    let goal = Goal::targeted(PERSON, NOBODY);
    let size = 3 * GRID[0] * GRID[1];
    let blank = Print { pixels: vec![0.5; size], mask: vec![1.0; GRID[0] * GRID[1]], shape: [3, GRID[0], GRID[1]] };
    let made = |folds: f64| -> Result<Print> {
        let attack = Rp2::new().steps(STEPS).samples(SAMPLES).learning_rate(0.05).norm_weight(0.0).smoothness(0.0002);
        let attack = attack.seed(random.fork("made").next_u64());
        let (print, _) = attack.run_on(&network.classifier, &blank, &photographs(folds), goal)?;
        setting.progress.unit()?;
        Ok(print)
    };
    let (cloth, flat) = (made(FOLDS)?, made(0.0)?);
    let mut noise = random.fork("a print at random");
    let noise = Print { pixels: (0..size).map(|_| noise.next_f64() as f32).collect(), ..blank.clone() };

    let measure = |name: &'static str, success: &dyn Fn(&Photographs<'_>, u64) -> Result<f64>| -> Result<Curve> {
        let at = |folds: &f64| success(&photographs(*folds), random.fork("measured").next_u64());
        Ok(Curve { name, hidden: MEASURED.iter().map(at).collect::<Result<_>>()? })
    };
    let of = |print: &Print, views: &Photographs<'_>, seed: u64| -> Result<f64> {
        Ok(print.success(&network.classifier, views, goal, COUNT, seed)?)
    };
    let curves = vec![
        measure("made for moving cloth", &|views, seed| of(&cloth, views, seed))?,
        measure("made for a flat print", &|views, seed| of(&flat, views, seed))?,
        measure("colours at random", &|views, seed| of(&noise, views, seed))?,
        measure("grey", &|views, seed| of(&blank, views, seed))?,
    ];
    setting.progress.unit()?;

    let mut pairs = Vec::new();
    for i in 0..6 {
        let seen = photographs(FOLDS)(&mut random.fork(format!("drawn {i}")))?;
        let read = |pixels: Vec<f32>| -> Result<Read> {
            let (class, confidence) = predictions(&network.classifier, &pixels, SIDE)?[0];
            Ok(Read { class: CLASSES[class], confidence, pixels })
        };
        let (before, after) = (read(seen.without())?, read(seen.with(&cloth.pixels, &cloth.mask))?);
        pairs.push(Pair { view: format!("{}", i + 1), before, after });
    }
    setting.progress.unit()?;
    Ok(Shirt {
        accuracy: network.accuracy,
        people: network.accuracies[PERSON],
        seconds: network.seconds,
        folds: MEASURED.iter().map(|folds| 200.0 * PRINT[0] * folds).collect(),
        curves,
        pairs,
        print: cloth.pixels,
    })
}

impl Shirt {
    /// Each curve where the one print is made for.
    fn curve_at_folds(&self) -> [f64; 4] {
        let i = MEASURED.iter().position(|folds| *folds == FOLDS).expect("one of them");
        [0, 1, 2, 3].map(|curve| self.curves[curve].hidden[i])
    }

    fn answer(&self) -> String {
        let [cloth, flat, noise, grey] = self.curve_at_folds();
        let start = match cloth {
            share if share >= 0.5 => "Yes",
            _ => "Not reliably",
        };
        let model = match cloth - flat {
            more if more > 0.07 => "the folds have to be part of the training",
            less if less < -0.07 => "modelling the folds did not help here",
            _ => "modelling the folds makes no difference that 400 people could show",
        };
        format!(
            "{start}: on cloth that moves by up to {} cm, a print made with the cloth in the model hides {} of new people from a detector \
             that finds {}; one made for a flat print {}, colours at random {}, grey {}: {model}.",
            fixed(200.0 * PRINT[0] * FOLDS, 1),
            percent(cloth),
            percent(self.people),
            percent(flat),
            percent(noise),
            percent(grey)
        )
    }

    fn part(&self) -> Part {
        let line = |(i, curve): (usize, &Curve)| {
            let points = self.folds.iter().zip(&curve.hidden).map(|(folds, share)| (*folds, 100.0 * share)).collect();
            Line::new(curve.name, ["s1", "s2", "s3", "s4"][i], points)
        };
        let plot = Plot {
            title: "Hidden people against the folds",
            x_axis: "the most that a point of the cloth is moved, cm",
            x_range: (0.0, self.folds[MEASURED.len() - 1]),
            y_axis: "people not found, %",
            logarithmic: false,
            lines: self.curves.iter().enumerate().map(line).collect(),
        };
        let mut head = vec!["cloth moved by up to"];
        head.extend(self.curves.iter().map(|curve| curve.name));
        let rows = self.folds.iter().enumerate().map(|(i, folds)| {
            let mut row = vec![format!("{} cm", fixed(*folds, 1))];
            row.extend(self.curves.iter().map(|curve| percent(curve.hidden[i])));
            row
        });
        Part {
            title: "A print on a shirt",
            text: format!(
                "A network tells streets with a person from streets without (trees, cars, boards and laundry with prints of their own among them): {} of \
                 {HELD_OUT} held-out pictures right, after {} s. The print of {:.0} × {:.0} cm is made over {SAMPLES} photographs of people a step, {STEPS} steps, its cloth \
                 a thin-plate spline through {POINTS} × {POINTS} points (Xu and others, 2020). Every share is of {COUNT} new people, good for ±5 points.",
                percent(self.accuracy),
                fixed(self.seconds, 1),
                200.0 * PRINT[0],
                200.0 * PRINT[1]
            ),
            figures: vec![
                figure("A person, a print, nobody", ("the print", &self.print, GRID[1]), &self.pairs, SIDE),
                plot.html(),
            ],
            table: (head, rows.collect()),
        }
    }
}
