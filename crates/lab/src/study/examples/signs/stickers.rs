//! Stickers on a stop sign, by RP2 over photographs of it.

use adversarial::physical::{Photographs, Print, PrintableColours, Rp2};
use adversarial::{Goal, Objective};
use core_tensor::Random;
use serde::Serialize;

use super::super::network::Trained;
use super::super::pictures::{Pair, figure};
use super::super::{percent, row};
use super::{missed, photographs, read};
use crate::error::Result;
use crate::report::plot::{Line, Plot, fixed};
use crate::scene::drawing::Outline;
use crate::scene::sign::{SIDE, Sign, Views};
use crate::study::{Part, Setting};
use crate::summary::Row;

const OBJECT: Sign = Sign::Stop;
const TARGET: Sign = Sign::Speed45;
/// Pixels of the print a side, on the whole face.
const GRID: usize = 32;
/// From where the stickers are made to be seen.
const MADE_FOR: Views = Views { distance: [4.0, 8.0], angle: [0.0, 30.0] };
const STEPS: usize = 300;
const SAMPLES: usize = 32;
const NON_PRINTABILITY: f64 = 0.002;
/// Views of a point of the curves.
const COUNT: usize = 200;
const ANGLES: [f64; 7] = [0.0, 15.0, 30.0, 40.0, 50.0, 60.0, 70.0];
const DISTANCES: [f64; 7] = [4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0];
/// What the printer gives of each of red, green and blue: 27 colours.
const INKS: [f32; 3] = [0.08, 0.5, 0.92];

pub const UNITS: u64 = 6;

/// Success of one kind of sticker.
#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    pub name: &'static str,
    /// Share of new views from [`MADE_FOR`].
    pub made_for: f64,
    /// By the angles.
    pub by_angle: Vec<f64>,
    /// By the distances.
    pub by_distance: Vec<f64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Stickers {
    /// Share of the sign's face that they cover.
    pub covered: f64,
    pub angles: Vec<f64>,
    pub distances: Vec<f64>,
    /// Made for the target, against the class, in plain colours, none.
    pub curves: Vec<Curve>,
    /// The targeted stickers with each pixel in the nearest of the printer's colours: share of new views.
    pub printed: f64,
    /// Mean distance of the targeted stickers' pixels from the printer's nearest colour.
    pub off_palette: f64,
    pub pairs: Vec<Pair>,
    #[serde(skip)]
    face: Vec<f32>,
}

pub fn run(network: &Trained, setting: &Setting<'_>) -> Result<Stickers> {
    let random = setting.random.fork("stickers");
    let bare = Print { pixels: OBJECT.face(GRID).pixels, mask: mask(), shape: [3, GRID, GRID] };
    let palette = (0..27).map(|i| [i / 9, i / 3 % 3, i % 3].map(|level| INKS[level]).to_vec());
    let palette = PrintableColours::new(palette.collect())?;
    let attack = Rp2::new()
        .steps(STEPS)
        .samples(SAMPLES)
        .learning_rate(0.05)
        .norm_weight(0.0)
        .smoothness(0.001)
        .colours(palette, NON_PRINTABILITY);
    let made = |goal: Goal, objective: Objective, label: &str| -> Result<Print> {
        let attack = attack.clone().objective(objective).seed(random.fork(label).next_u64());
        let (print, _) = attack.run_on(&network.classifier, &bare, &photographs(OBJECT, MADE_FOR, GRID), goal)?;
        setting.progress.unit()?;
        Ok(print)
    };
    let (to, from) = (Goal::targeted(OBJECT.class(), TARGET.class()), Goal::untargeted(OBJECT.class()));
    let targeted = made(to, Objective::CrossEntropy, "targeted")?;
    // The cross-entropy of a class that the network is sure of has no slope to begin with.
    let untargeted = made(from, Objective::Margin, "untargeted")?;
    // Black and white, as anybody could stick them: the upper and the lower one.
    let plain = Print { pixels: plain(&bare), ..bare.clone() };

    let measure = |name: &'static str, success: &dyn Fn(&Photographs<'_>, u64) -> Result<f64>| -> Result<Curve> {
        let at =
            |views: Views, label: String| success(&photographs(OBJECT, views, GRID), random.fork(label).next_u64());
        let by_angle = ANGLES.map(|angle| at(Views { angle: [angle; 2], ..MADE_FOR }, format!("angle {angle}")));
        let by_distance =
            DISTANCES.map(|metres| at(Views { distance: [metres; 2], ..MADE_FOR }, format!("distance {metres}")));
        let curve = Curve {
            name,
            made_for: at(MADE_FOR, "made for".into())?,
            by_angle: by_angle.into_iter().collect::<Result<_>>()?,
            by_distance: by_distance.into_iter().collect::<Result<_>>()?,
        };
        setting.progress.unit()?;
        Ok(curve)
    };
    let success = |print: &Print, goal: Goal, views: &Photographs<'_>, seed: u64| -> Result<f64> {
        Ok(print.success(&network.classifier, views, goal, COUNT, seed)?)
    };
    let curves = vec![
        measure("made for speed limit 45: read as that", &|views, seed| success(&targeted, to, views, seed))?,
        measure("made for anything else: not read as stop", &|views, seed| success(&untargeted, from, views, seed))?,
        measure("black and white stickers: not read as stop", &|views, seed| success(&plain, from, views, seed))?,
        measure("no stickers: not read as stop", &|views, seed| {
            missed(network, views, OBJECT, COUNT, &Random::new(seed))
        })?,
    ];

    let (printed, off_palette) = in_ink(&targeted);
    let views = photographs(OBJECT, MADE_FOR, GRID);
    let printed = printed.success(&network.classifier, &views, to, COUNT, random.fork("made for").next_u64())?;
    let mut pairs = Vec::new();
    for (metres, degrees) in [(4.0, 0.0), (5.0, 30.0), (6.0, 15.0), (8.0, 0.0), (6.0, 50.0), (12.0, 0.0)] {
        let views = Views { distance: [metres; 2], angle: [degrees; 2] };
        let seen = photographs(OBJECT, views, GRID)(&mut random.fork(format!("drawn {metres} {degrees}")))?;
        pairs.push(Pair {
            view: format!("{metres} m, {degrees}°"),
            before: read(network, seen.without())?,
            after: read(network, seen.with(&targeted.pixels, &targeted.mask))?,
        });
    }
    let octagon = inside(&Outline::regular(8, 1.0, 22.5));
    let covered = f64::from(bare.mask.iter().sum::<f32>()) / octagon.iter().filter(|inside| **inside).count() as f64;
    Ok(Stickers {
        covered,
        angles: ANGLES.to_vec(),
        distances: DISTANCES.to_vec(),
        curves,
        printed,
        off_palette,
        pairs,
        face: targeted.pixels,
    })
}

/// Which pixels of the print have their middle inside of an outline.
fn inside(outline: &Outline) -> Vec<bool> {
    let middle = |i: usize| 2.0 * (i as f64 + 0.5) / GRID as f64 - 1.0;
    (0..GRID * GRID).map(|i| outline.contains([middle(i % GRID), middle(i / GRID)])).collect()
}

/// Two bars, above and below the word.
fn mask() -> Vec<f32> {
    let bars = [[-0.72, -0.34], [0.34, 0.72]].map(|[top, bottom]| Outline::rectangle([-0.56, top], [0.56, bottom]));
    let [above, below] = bars.map(|bar| inside(&bar));
    above.iter().zip(below).map(|(above, below)| f32::from(u8::from(*above || below))).collect()
}

/// The upper sticker black, the lower one white.
fn plain(bare: &Print) -> Vec<f32> {
    let ink = |i: usize| if i % (GRID * GRID) < GRID * GRID / 2 { INKS[0] } else { INKS[2] };
    bare.pixels
        .iter()
        .enumerate()
        .map(|(i, x)| if bare.mask[i % bare.mask.len()] == 1.0 { ink(i) } else { *x })
        .collect()
}

/// Each pixel of the stickers in the nearest ink, and how far that is on average.
fn in_ink(print: &Print) -> (Print, f64) {
    let size = GRID * GRID;
    let (mut inked, mut total, mut count) = (print.clone(), 0.0, 0);
    for i in (0..size).filter(|i| print.mask[*i] == 1.0) {
        let mut far = 0.0;
        for c in 0..3 {
            let x = &mut inked.pixels[c * size + i];
            let nearest = INKS.into_iter().min_by(|a, b| (*x - a).abs().total_cmp(&(*x - b).abs()));
            let nearest = nearest.expect("three levels");
            far += f64::from(*x - nearest).powi(2);
            *x = nearest;
        }
        total += far.sqrt();
        count += 1;
    }
    (inked, total / f64::from(count))
}

impl Stickers {
    pub fn answer(&self) -> String {
        let (targeted, untargeted) = (&self.curves[0], &self.curves[1]);
        let start = match targeted.made_for {
            share if share >= 0.8 => "Yes",
            share if share >= 0.5 => "Mostly",
            _ => "Not reliably",
        };
        format!(
            "{start}: with stickers on {} of its face a stop sign is read as speed limit 45 in {} of new views from 4 to 8 m and up to \
             30°, and stickers against the class alone hide it in {}; plain black and white ones do so in {}, and without any {} are \
             misread. At {}° the share is down to {}.",
            percent(self.covered),
            percent(targeted.made_for),
            percent(untargeted.made_for),
            percent(self.curves[2].made_for),
            percent(self.curves[3].made_for),
            ANGLES[6],
            percent(targeted.by_angle[6]),
        )
    }

    pub fn rows(&self) -> Vec<Row> {
        let of = |curve: &Curve, what: &str| {
            let note = format!("at 60°: {}, at 12 m: {}", percent(curve.by_angle[5]), percent(curve.by_distance[6]));
            row(format!("stop sign: {what}"), percent(curve.made_for), note)
        };
        vec![
            of(&self.curves[0], "stickers, read as speed limit 45"),
            of(&self.curves[1], "stickers, not read as stop"),
            of(&self.curves[3], "no stickers, not read as stop"),
        ]
    }

    pub fn part(&self) -> Part {
        let plot = |title: &'static str, x_axis: &'static str, at: &[f64], of: fn(&Curve) -> &[f64]| {
            let line = |(i, curve): (usize, &Curve)| {
                let points = at.iter().zip(of(curve)).map(|(at, share)| (*at, 100.0 * share)).collect();
                Line::new(curve.name, ["s1", "s2", "s3", "s4"][i], points)
            };
            Plot {
                title,
                x_axis,
                x_range: (at[0], at[at.len() - 1]),
                y_axis: "views, %",
                logarithmic: false,
                lines: self.curves.iter().enumerate().map(line).collect(),
            }
            .html()
        };
        let figures = vec![
            figure(
                "A stop sign, stickers, a speed limit",
                ("the face with stickers", &self.face, GRID),
                &self.pairs,
                SIDE,
            ),
            plot(
                "Success against the viewing angle",
                "angle to the sign's axis, degrees (made for 0 to 30)",
                &self.angles,
                |curve| &curve.by_angle,
            ),
            plot("Success against the distance", "distance, m (made for 4 to 8)", &self.distances, |curve| {
                &curve.by_distance
            }),
        ];
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut add = |name: String, of: &dyn Fn(&Curve) -> f64| {
            let mut row = vec![name];
            row.extend(self.curves.iter().map(|curve| percent(of(curve))));
            rows.push(row);
        };
        add("4 to 8 m, 0° to 30°".into(), &|curve| curve.made_for);
        for (i, angle) in self.angles.iter().enumerate() {
            add(format!("4 to 8 m, {angle}°"), &|curve| curve.by_angle[i]);
        }
        for (i, metres) in self.distances.iter().enumerate() {
            add(format!("{metres} m, 0° to 30°"), &|curve| curve.by_distance[i]);
        }
        Part {
            title: "Stickers by RP2",
            text: format!(
                "RP2 (Eykholt and others, 2018) over {SAMPLES} photographs a step, {STEPS} steps: from 4 to 8 m, up to 30° to either side, each in another \
                 street and light. Two stickers, {} of the face; total variation and non-printability count (27 colours; a pixel is {} of \
                 the colour cube's side from the nearest, and printed in nothing but those the sign is read as speed limit 45 in {} \
                 of the views). Every figure is of {COUNT} new views drawn at random; 200 views are good for ±7 points.",
                percent(self.covered),
                fixed(self.off_palette, 3),
                percent(self.printed)
            ),
            figures,
            table: (
                vec![
                    "seen from",
                    "read as 45: stickers for that",
                    "not stop: stickers",
                    "not stop: black, white",
                    "not stop: none",
                ],
                rows,
            ),
        }
    }
}
