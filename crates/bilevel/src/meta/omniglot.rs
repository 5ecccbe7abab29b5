//! Omniglot: handwritten characters of many alphabets, twenty drawings of each.

mod archive;

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};

use super::tasks::{Episode, Episodes};
use crate::error::{Error, Result, refuse};

const FILE: &str = "omniglot/images_background_small1.zip";

/// The characters of an Omniglot archive, made smaller: the data set of few-shot classification.
///
/// Read from the ZIP files in which the set is published (`images_background.zip`, `images_background_small1.zip`, `images_evaluation.zip`):
/// `ALPHABET/CHARACTER/DRAWING.png`, 105 × 105 pixels of ink or paper. A class is a character; classes and drawings come in the order of their paths.
///
/// B. M. Lake, R. Salakhutdinov, J. B. Tenenbaum, "Human-level concept learning through probabilistic program induction", 2015; MIT licence,
/// <https://github.com/brendenlake/omniglot>.
#[derive(Clone, Debug)]
pub struct Omniglot {
    /// Share of ink in each pixel, `[0, 1]`, drawing by drawing, row by row.
    pub pixels: Vec<f32>,
    /// Pixels of a row, and rows of a drawing.
    pub side: usize,
    /// The class of each drawing.
    pub labels: Vec<usize>,
    /// `ALPHABET/CHARACTER` of each class.
    pub classes: Vec<String>,
}

impl Omniglot {
    /// Where the archive lies: `omniglot/images_background_small1.zip` below the folder that the variable `DATA_DIR` names, else below
    /// `../shared/data`.
    ///
    /// # Errors
    /// [`Error::Data`] with the path looked for, and where to get the file.
    pub fn find() -> Result<PathBuf> {
        let folder = std::env::var_os("DATA_DIR").map_or_else(|| PathBuf::from("../shared/data"), PathBuf::from);
        let path = folder.join(FILE);
        match path.is_file() {
            true => Ok(path),
            false => Err(Error::Data {
                path,
                problem:
                    "no such file; get it from https://github.com/brendenlake/omniglot, folder python, and set DATA_DIR"
                        .into(),
            }),
        }
    }

    /// Reads an archive, its drawings averaged down to `side × side` pixels.
    ///
    /// # Errors
    /// A parameter error for a side outside `1..=105`; [`Error::Data`] for a file that cannot be read or is not such an archive.
    pub fn load(path: &Path, side: usize) -> Result<Self> {
        if !(1..=105).contains(&side) {
            return refuse("side", side as f64, "1 <= side <= 105");
        }
        let wrong = |problem: String| Error::Data { path: path.to_path_buf(), problem };
        let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        let mut drawings = archive::entries(&bytes).map_err(&wrong)?;
        drawings.retain(|entry| entry.name.ends_with(".png"));
        drawings.sort_by(|a, b| a.name.cmp(&b.name));
        let mut set = Self { pixels: Vec::new(), side, labels: Vec::new(), classes: Vec::new() };
        for entry in drawings {
            let named = |problem: String| wrong(format!("`{}`: {problem}", entry.name));
            let parts: Vec<&str> = entry.name.rsplit('/').collect();
            let &[_, character, alphabet, ..] = &parts[..] else {
                return Err(named("expected ALPHABET/CHARACTER/DRAWING.png".into()));
            };
            let class = format!("{alphabet}/{character}");
            if set.classes.last() != Some(&class) {
                set.classes.push(class);
            }
            let image = archive::unpack(&bytes, &entry).and_then(|png| archive::ink(&png)).map_err(named)?;
            set.pixels.extend(shrink(&image, side));
            set.labels.push(set.classes.len() - 1);
        }
        match set.labels.is_empty() {
            true => Err(wrong("no drawings".into())),
            false => Ok(set),
        }
    }

    /// The drawings whose class the function keeps, under their classes' old numbers: for classes that are met in training only, or in tests only.
    pub fn keep(&self, mut class: impl FnMut(usize) -> bool) -> Self {
        let size = self.side * self.side;
        let mut kept = Self { pixels: Vec::new(), labels: Vec::new(), ..self.clone() };
        for (position, label) in self.labels.iter().enumerate().filter(|(_, label)| class(**label)) {
            kept.pixels.extend(&self.pixels[position * size..(position + 1) * size]);
            kept.labels.push(*label);
        }
        kept
    }

    /// The set with each character turned by 0, 90, 180 and 270 degrees, each a class of its own: four times the classes to learn from (A. Santoro
    /// et al., "Meta-learning with memory-augmented neural networks", 2016). Class `c` turned `r` times is number `4c + r`.
    pub fn rotated(&self) -> Self {
        let side = self.side;
        let mut all =
            Self { pixels: Vec::with_capacity(4 * self.pixels.len()), side, labels: Vec::new(), classes: Vec::new() };
        for turns in 0..4 {
            for (drawing, label) in self.pixels.chunks(side * side).zip(&self.labels) {
                let turned = (0..side * side).map(|at| {
                    let (mut row, mut column) = (at / side, at % side);
                    for _ in 0..turns {
                        (row, column) = (column, side - 1 - row);
                    }
                    drawing[row * side + column]
                });
                all.pixels.extend(turned);
                all.labels.push(4 * label + turns);
            }
        }
        let turned = |class: &String| [0, 90, 180, 270].map(|degrees| format!("{class}/{degrees}"));
        all.classes = self.classes.iter().flat_map(turned).collect();
        all
    }

    /// N-way K-shot tasks on the drawings.
    ///
    /// # Errors
    /// Those of [`Episodes::new`].
    pub fn episodes(&self, ways: usize, shots: usize, queries: usize, seed: u64) -> Result<Episodes> {
        Episodes::new(&self.labels, ways, shots, queries, seed)
    }

    /// Support and query of a task: pixels, one drawing a row, and one-hot labels.
    ///
    /// # Panics
    /// For a task of another set with more drawings.
    pub fn batches(&self, task: &Episode, device: &Device) -> [(Tensor<2>, Tensor<2>); 2] {
        let (size, ways) = (self.side * self.side, task.classes.len());
        let batch = |positions: &[usize], labels: &[usize]| {
            let pixels: Vec<f32> =
                positions.iter().flat_map(|at| &self.pixels[at * size..(at + 1) * size]).copied().collect();
            let hot = labels.iter().flat_map(|label| (0..ways).map(move |way| f32::from(u8::from(way == *label))));
            let hot = TensorData::new(hot.collect::<Vec<f32>>(), [labels.len(), ways]);
            (
                Tensor::from_data(TensorData::new(pixels, [positions.len(), size]), device),
                Tensor::from_data(hot, device),
            )
        };
        [batch(&task.support, &task.support_labels), batch(&task.query, &task.query_labels)]
    }
}

/// The mean of each of `side × side` boxes of a square image; pixels on a border count by their share.
fn shrink(image: &archive::Image, side: usize) -> Vec<f32> {
    let weights = |length: usize, at: usize| {
        let (low, high) = (at as f64 * length as f64 / side as f64, (at + 1) as f64 * length as f64 / side as f64);
        (low as usize..(high.ceil() as usize).min(length))
            .map(move |i| (i, (high.min((i + 1) as f64) - low.max(i as f64)) / (high - low)))
    };
    let mut small = Vec::with_capacity(side * side);
    for row in 0..side {
        for column in 0..side {
            let mut sum = 0.0;
            for (y, of_row) in weights(image.height, row) {
                for (x, of_column) in weights(image.width, column) {
                    sum += of_row * of_column * f64::from(image.ink[y * image.width + x]);
                }
            }
            small.push(sum as f32);
        }
    }
    small
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_by_hand() {
        let image = archive::Image { width: 3, height: 3, ink: vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0] };
        assert_eq!(shrink(&image, 3), image.ink);
        // Boxes of 1½ pixels: a whole one, two halves, a quarter, over 2¼.
        let small = shrink(&image, 2);
        let expected = [1.25 / 2.25, 0.25 / 2.25, 0.25 / 2.25, 0.25 / 2.25];
        assert!(small.iter().zip(expected).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-7), "{small:?}");
        let one = shrink(&image, 1)[0];
        assert!((one - 2.0 / 9.0).abs() < 1e-7);
    }

    #[test]
    fn turned_characters_are_classes_of_their_own() {
        let set = Omniglot {
            pixels: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
            side: 2,
            labels: vec![0, 1],
            classes: vec!["a".into(), "b".into()],
        };
        let all = set.rotated();
        let expected = ["a/0", "a/90", "a/180", "a/270", "b/0", "b/90", "b/180", "b/270"];
        assert_eq!((all.side, all.classes), (2, expected.map(String::from).to_vec()));
        let of = |class: usize| {
            let at = all.labels.iter().position(|label| *label == class).unwrap();
            all.pixels[4 * at..4 * at + 4].to_vec()
        };
        assert_eq!([of(0), of(1)], [[1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 1.0, 3.0]]);
        assert_eq!([of(2), of(3), of(5)], [[4.0, 3.0, 2.0, 1.0], [3.0, 1.0, 4.0, 2.0], [6.0, 8.0, 5.0, 7.0]]);
    }

    #[test]
    fn what_is_not_there_or_not_an_archive_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nothing.zip");
        let error = Omniglot::load(&path, 28).unwrap_err().to_string();
        assert!(error.contains("nothing.zip"), "{error}");
        std::fs::write(&path, b"not an archive").unwrap();
        let error = Omniglot::load(&path, 28).unwrap_err().to_string();
        assert!(error.contains("not a ZIP archive"), "{error}");
        assert!(Omniglot::load(&path, 0).is_err() && Omniglot::load(&path, 106).is_err());
    }

    /// The published archive, where it is there; what is looked for is named where it is not.
    #[test]
    fn the_archive_is_read_whole() {
        let path = match Omniglot::find() {
            Ok(path) => path,
            Err(error) => {
                assert!(error.to_string().contains(FILE) && error.to_string().contains("https://"), "{error}");
                return;
            }
        };
        let set = Omniglot::load(&path, 21).unwrap();
        assert_eq!((set.labels.len(), set.classes.len()), (2720, 136));
        assert_eq!(set.pixels.len(), 2720 * 21 * 21);
        assert!((0..136).all(|class| set.labels.iter().filter(|label| **label == class).count() == 20));
        assert_eq!(set.classes[0], "Balinese/character01");
        // Strokes on paper: some ink, most of it none.
        let mean = set.pixels.iter().sum::<f32>() / set.pixels.len() as f32;
        assert!((0.02..0.15).contains(&mean) && set.pixels.iter().all(|p| (0.0..=1.0).contains(p)), "{mean}");
        // Drawings of one character are nearer to each other than to others.
        let distance = |a: usize, b: usize| -> f32 {
            (0..441).map(|i| (set.pixels[a * 441 + i] - set.pixels[b * 441 + i]).powi(2)).sum()
        };
        let (mut same, mut other) = (0.0, 0.0);
        for class in 0..136 {
            same += distance(class * 20, class * 20 + 7);
            other += distance(class * 20, (class * 20 + 367) % 2720);
        }
        assert!(same < 0.9 * other, "{same} {other}");
        let some = set.keep(|class| class % 2 == 1);
        assert_eq!((some.labels.len(), some.labels[0]), (1360, 1));
        assert_eq!(some.pixels[..441], set.pixels[20 * 441..21 * 441]);
        let task = some.episodes(5, 1, 3, 2).unwrap().task(9);
        let [support, query] = some.batches(&task, &Device::flex());
        assert_eq!((support.0.dims(), support.1.dims()), ([5, 441], [5, 5]));
        assert_eq!((query.0.dims(), query.1.dims()), ([15, 441], [15, 5]));
        let first: Vec<f32> = support.0.into_data().iter().take(441).collect();
        assert_eq!(first, some.pixels[task.support[0] * 441..(task.support[0] + 1) * 441]);
    }
}
