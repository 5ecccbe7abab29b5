//! A printed patch that lies anywhere on pictures of signs.

use adversarial::Goals;
use adversarial::physical::{AdversarialPatch, Patch, Placement, Transform, Transforms};
use burn::tensor::Tensor;
use serde::Serialize;

use super::super::network::{Pictures, Trained};
use super::super::pictures::{Pair, figure};
use super::super::{percent, row};
use super::{pictures, read};
use crate::error::Result;
use crate::report::plot::{Line, Plot};
use crate::scene::sign::{SIDE, Sign};
use crate::study::{Part, Setting};
use crate::summary::Row;

const TARGET: Sign = Sign::Priority;
const GRID: usize = 24;
const TRAINED_ON: usize = 320;
const MEASURED_ON: usize = 400;
const EPOCHS: usize = 24;
/// Widths that it is made for, as shares of the picture's.
const SIZES: [f64; 2] = [0.2, 0.5];
const MEASURED: [f64; 7] = [0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6];
const DRAWN: usize = 3;

pub const UNITS: u64 = 2;

#[derive(Clone, Debug, Serialize)]
pub struct Patches {
    /// Widths, as shares of the picture's.
    pub sizes: Vec<f64>,
    /// Share of pictures read as the target, by size: the patch, a picture of the target of the same size, a grey disc.
    pub success: [Vec<f64>; 3],
    pub pairs: Vec<Pair>,
    #[serde(skip)]
    pixels: Vec<f32>,
}

pub fn run(network: &Trained, setting: &Setting<'_>) -> Result<Patches> {
    let random = setting.random.fork("patch");
    let device = setting.device;
    let others = |count: usize, label: &str| -> Result<(Pictures, Vec<usize>)> {
        let data = pictures(count * 8 / 7, &random.fork(label))?;
        let chosen = (0..data.len()).filter(|i| data.labels[*i] != TARGET.class()).collect();
        Ok((data, chosen))
    };
    let goals = |data: &Pictures, chosen: &[usize]| {
        let labels: Vec<usize> = chosen.iter().map(|i| data.labels[*i]).collect();
        Goals::targeted(&labels, &vec![TARGET.class(); labels.len()])
    };
    let (data, chosen) = others(TRAINED_ON, "training")?;
    let light = Transforms::new().then(Transform::Brightness([-0.1, 0.1])).then(Transform::Noise(0.02));
    let placement = Placement::new().degrees(-20.0, 20.0).scale(SIZES[0], SIZES[1]).scene(light);
    let attack = AdversarialPatch::new().side(GRID).placement(placement.clone()).epochs(EPOCHS);
    let attack = attack.seed(random.fork("placements").next_u64());
    let patch = attack.train(&network.classifier, &data.select(&chosen, device), &goals(&data, &chosen)?)?;
    setting.progress.unit()?;

    let (data, chosen) = others(MEASURED_ON, "measuring")?;
    let (x, goals) = (data.select(&chosen, device), goals(&data, &chosen)?);
    let like = |pixels: Vec<f32>| {
        let mut other = patch.clone();
        other.pixels = pixels;
        other
    };
    let prints = [patch.clone(), like(TARGET.face(GRID).pixels), like(vec![0.5; patch.pixels.len()])];
    let measure = |patch: &Patch| -> Result<Vec<f64>> {
        let at = |size: &f64| {
            let placement = placement.clone().scale(*size, *size);
            Ok(patch.success(&network.classifier, &x, &goals, &placement, random.fork("places").next_u64())?)
        };
        MEASURED.iter().map(at).collect()
    };
    let success = [measure(&prints[0])?, measure(&prints[1])?, measure(&prints[2])?];
    setting.progress.unit()?;

    let mut pairs = Vec::new();
    for (i, size) in [0.3, 0.4, 0.5, 0.3, 0.4, 0.5].into_iter().enumerate().take(2 * DRAWN) {
        let picture = data.picture(chosen[i]);
        let x: Tensor<4> = data.select(&[chosen[i]], device);
        let placement = placement.clone().scale(size, size);
        let with = patch.apply(&x, &placement, random.fork(format!("drawn {i}")).next_u64())?;
        pairs.push(Pair {
            view: format!("{:.0} % of the width", 100.0 * size),
            before: read(network, picture.to_vec())?,
            after: read(network, with.into_data().iter::<f32>().collect())?,
        });
    }
    Ok(Patches { sizes: MEASURED.to_vec(), success, pairs, pixels: patch.pixels })
}

impl Patches {
    fn at(&self, size: f64) -> [f64; 3] {
        let i = self.sizes.iter().position(|other| *other == size).expect("a size measured");
        [0, 1, 2].map(|print| self.success[print][i])
    }

    pub fn answer(&self) -> String {
        let ([patch, sign, grey], small) = (self.at(0.4), self.at(0.2));
        let start = if patch > 0.5 && patch > sign { "Yes, if it is large enough" } else { "Not reliably" };
        format!(
            "{start}: at 40 % of the picture's width, anywhere in it, the patch makes the network read priority road in {} of new pictures of other signs, \
             a picture of that sign of the same size in {}, a grey disc in {}; at 20 % it does so in {}.",
            percent(patch),
            percent(sign),
            percent(grey),
            percent(small[0])
        )
    }

    pub fn rows(&self) -> Vec<Row> {
        let [patch, sign, grey] = self.at(0.4);
        let note = format!("the sign itself {}, grey {}", percent(sign), percent(grey));
        vec![row("patch at 40 % of the width: read as priority road", percent(patch), note)]
    }

    pub fn part(&self) -> Part {
        let names = ["the patch", "the sign itself", "a grey disc"];
        let line = |i: usize| {
            let points = self.sizes.iter().zip(&self.success[i]).map(|(size, share)| (100.0 * size, 100.0 * share));
            Line::new(names[i], ["s1", "s2", "s3"][i], points.collect())
        };
        let plot = Plot {
            title: "Success against the size",
            x_axis: "width of the patch, % of the picture's (made for 20 to 50)",
            x_range: (0.0, 60.0),
            y_axis: "pictures of other signs read as priority road, %",
            logarithmic: false,
            lines: (0..3).map(line).collect(),
        };
        let rows = self.sizes.iter().enumerate().map(|(i, size)| {
            let mut row = vec![format!("{:.0} %", 100.0 * size)];
            row.extend(self.success.iter().map(|success| percent(success[i])));
            row
        });
        Part {
            title: "A patch anywhere",
            text: format!(
                "One disc (Brown and others, 2017), made on {TRAINED_ON} pictures of the other seven signs, a new place, angle (±20°), size and light each time, for the \
                 class priority road; measured on {MEASURED_ON} others at places of their own. It may fall beside the sign or on it."
            ),
            figures: vec![
                figure("A sign, a patch, another sign", ("the patch", &self.pixels, GRID), &self.pairs, SIDE),
                plot.html(),
            ],
            table: (vec!["width", "the patch", "the sign itself", "a grey disc"], rows.collect()),
        }
    }
}
