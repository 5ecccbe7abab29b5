//! Labelled images: the embedded digits, MNIST, and one's own as IDX, CSV or PNG files.

pub mod csv;
pub mod digits;
pub mod idx;
pub mod png;

use std::path::{Path, PathBuf};

use flate2::Crc;

use crate::error::{Error, Result};
use crate::recipe::{DataName, DataRecipe};

/// Number of classes of the digits.
pub const CLASSES: usize = 10;

/// Grey images of one size with their labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// Grey values, 0 (paper) to [`ink`](Self::ink) (full ink), image after image, row after row.
    pub pixels: Vec<u8>,
    /// The class of each image.
    pub labels: Vec<u8>,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// The largest grey value there is.
    pub ink: u8,
}

/// A training and a test set of images of one size, and what was held out of the former for validation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Name as in a recipe.
    pub name: &'static str,
    /// The names of the classes.
    pub classes: Vec<String>,
    /// What is trained on.
    pub train: Images,
    /// What settings are judged by; may be empty.
    pub validation: Images,
    /// What is only measured on.
    pub test: Images,
    /// Labels beside the first.
    pub columns: Vec<Column>,
}

/// A label of every image beside the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The names of its classes.
    pub classes: Vec<String>,
    /// Of the training images.
    pub train: Vec<u8>,
    /// Of the validation images.
    pub validation: Vec<u8>,
    /// Of the test images.
    pub test: Vec<u8>,
}

impl Images {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The grey values of image `index`, row after row.
    pub fn image(&self, index: usize) -> &[u8] {
        let size = self.height * self.width;
        &self.pixels[index * size..(index + 1) * size]
    }

    /// Mean and standard deviation of all grey values as fractions of full ink.
    pub fn mean_and_deviation(&self) -> (f64, f64) {
        let ink = f64::from(self.ink);
        let count = self.pixels.len() as f64;
        let (sum, squares) = self.pixels.iter().fold((0u64, 0u64), |(sum, squares), &pixel| {
            (sum + u64::from(pixel), squares + u64::from(pixel) * u64::from(pixel))
        });
        let mean = sum as f64 / count / ink;
        let variance = squares as f64 / count / (ink * ink) - mean * mean;
        (mean, variance.max(0.0).sqrt())
    }

    pub(crate) fn keep(&self, mut wanted: impl FnMut(usize) -> bool) -> Self {
        let kept: Vec<usize> = (0..self.len()).filter(|&index| wanted(index)).collect();
        Self {
            pixels: kept.iter().flat_map(|&index| self.image(index)).copied().collect(),
            labels: kept.iter().map(|&index| self.labels[index]).collect(),
            ..*self
        }
    }
}

impl Dataset {
    /// A training and a test set with one label, and nothing held out.
    pub fn new(name: &'static str, classes: Vec<String>, train: Images, test: Images) -> Self {
        let validation = train.keep(|_| false);
        Self { name, classes, train, validation, test, columns: Vec::new() }
    }

    /// The data set of a recipe.
    ///
    /// # Errors
    /// [`Error::MissingData`], [`Error::Read`] or [`Error::Data`].
    pub fn load(recipe: &DataRecipe) -> Result<Self> {
        let here = || PathBuf::from(if recipe.dir.is_empty() { "." } else { &recipe.dir });
        let mut data = match recipe.name {
            DataName::Digits => digits::load()?,
            DataName::Mnist => idx::load_mnist(&mnist_dir(&recipe.dir))?,
            DataName::Idx => idx::load(&here())?,
            DataName::Csv => csv::load(&here(), recipe)?,
            DataName::Png => png::load(&here())?,
        };
        if recipe.limit > 0 {
            data.keep_in_train(|index| index < recipe.limit);
        }
        if recipe.validation > 0.0 {
            data.hold_out(recipe.validation)?;
        }
        Ok(data)
    }

    fn keep_in_train(&mut self, mut wanted: impl FnMut(usize) -> bool) {
        let wanted: Vec<bool> = (0..self.train.len()).map(&mut wanted).collect();
        self.train = self.train.keep(|index| wanted[index]);
        for column in &mut self.columns {
            column.train = kept(&column.train, |index| wanted[index]);
        }
    }

    /// Moves a share of each class, evenly spread over the file, from the training to the validation set.
    fn hold_out(&mut self, share: f64) -> Result<()> {
        let mut seen = [0u32; 256];
        let out = |label: &u8| {
            let count = &mut seen[usize::from(*label)];
            let before = (f64::from(*count) * share).floor();
            *count += 1;
            (f64::from(*count) * share).floor() > before
        };
        let out: Vec<bool> = self.train.labels.iter().map(out).collect();
        let few = |problem: &str| {
            let origin = format!("data.validation = {share}");
            Err(Error::Data { origin, problem: format!("leaves {problem} of {} examples", out.len()) })
        };
        if !out.contains(&true) {
            return few("no example for validation");
        }
        if !out.contains(&false) {
            return few("no example for training");
        }
        self.validation = self.train.keep(|index| out[index]);
        for column in &mut self.columns {
            column.validation = kept(&column.train, |index| out[index]);
        }
        self.keep_in_train(|index| !out[index]);
        Ok(())
    }

    /// A checksum of everything in it, to tell whether a resumed run sees the same data.
    pub fn checksum(&self) -> u32 {
        let mut crc = Crc::new();
        for images in [&self.train, &self.test] {
            for number in [images.len(), images.height, images.width, usize::from(images.ink)] {
                crc.update(&(number as u64).to_le_bytes());
            }
            crc.update(&images.pixels);
            crc.update(&images.labels);
        }
        for images in [&self.validation.pixels, &self.validation.labels] {
            crc.update(images);
        }
        for column in &self.columns {
            for labels in [&column.train, &column.validation, &column.test] {
                crc.update(labels);
            }
        }
        crc.sum()
    }
}

/// Where MNIST is: the folder named, else `$DATA_DIR/mnist`, else `../shared/data/mnist`.
pub fn mnist_dir(named: &str) -> PathBuf {
    if !named.is_empty() {
        return named.into();
    }
    let root = std::env::var_os("DATA_DIR").filter(|dir| !dir.is_empty());
    root.map_or_else(|| "../shared/data".into(), PathBuf::from).join("mnist")
}

/// For each label whether its image is one of those for testing, where a data set brings none: every fifth of each class.
fn every_fifth(labels: &[u8]) -> Vec<bool> {
    let mut seen = [0usize; 256];
    let fifth = |label: &u8| {
        let count = &mut seen[usize::from(*label)];
        *count += 1;
        *count % 5 == 0
    };
    labels.iter().map(fifth).collect()
}

fn kept(labels: &[u8], wanted: impl Fn(usize) -> bool) -> Vec<u8> {
    (0..labels.len()).filter(|&index| wanted(index)).map(|index| labels[index]).collect()
}

/// The classes of labels as written, in order: by number if all are numbers.
fn classes_of<'a>(labels: impl Iterator<Item = &'a str>, origin: &Path) -> Result<Vec<String>> {
    let distinct: std::collections::BTreeSet<&str> = labels.collect();
    let mut classes: Vec<String> = distinct.into_iter().map(str::to_owned).collect();
    if let Ok(numbers) = classes.iter().map(|class| class.parse::<i64>()).collect::<Result<Vec<_>, _>>() {
        let mut order: Vec<(i64, String)> = numbers.into_iter().zip(classes).collect();
        order.sort();
        classes = order.into_iter().map(|(_, class)| class).collect();
    }
    match classes.len() {
        0 => Err(data_error(origin, "no images")),
        1 => Err(data_error(origin, format!("one class only, {:?}: there is nothing to tell apart", classes[0]))),
        count if count > 256 => Err(data_error(origin, format!("{count} classes, at most 256"))),
        _ => Ok(classes),
    }
}

/// The number of a class.
fn class_number(classes: &[String], label: &str, origin: &Path, place: &str) -> Result<u8> {
    let known = || {
        let shown = classes.iter().take(12).map(String::as_str).collect::<Vec<_>>().join(", ");
        if classes.len() > 12 { format!("{shown}, …") } else { shown }
    };
    match classes.iter().position(|class| class == label) {
        Some(number) => Ok(number as u8),
        None => Err(data_error(
            origin,
            format!("{place}: unknown label {label:?} (those of the training set: {})", known()),
        )),
    }
}

fn data_error(origin: &Path, problem: impl Into<String>) -> Error {
    Error::Data { origin: origin.display().to_string(), problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_takes_the_first_examples_and_changes_the_checksum() {
        let all = Dataset::load(&DataRecipe::default()).unwrap();
        let few = Dataset::load(&DataRecipe { limit: 10, ..DataRecipe::default() }).unwrap();
        assert_eq!((few.train.len(), few.test.len()), (10, all.test.len()));
        assert_eq!(few.train.pixels[..], all.train.pixels[..640]);
        assert_ne!(few.checksum(), all.checksum());
        assert_eq!(all.checksum(), Dataset::load(&DataRecipe::default()).unwrap().checksum());
    }

    #[test]
    fn what_is_held_out_is_a_share_of_each_class() {
        let all = Dataset::load(&DataRecipe::default()).unwrap();
        let data = Dataset::load(&DataRecipe { validation: 0.25, ..DataRecipe::default() }).unwrap();
        assert_eq!(data.train.len() + data.validation.len(), all.train.len());
        assert_eq!(data.test, all.test);
        for class in 0..10u8 {
            let count = |images: &Images| images.labels.iter().filter(|&&label| label == class).count();
            assert_eq!(count(&data.validation), count(&all.train) / 4, "class {class}");
        }
        assert_ne!(data.checksum(), all.checksum());
        let few = DataRecipe { validation: 0.25, limit: 3, ..DataRecipe::default() };
        assert_eq!(
            Dataset::load(&few).unwrap_err().to_string(),
            "data.validation = 0.25: leaves no example for validation of 3 examples"
        );
    }

    #[test]
    fn classes_are_in_the_order_of_their_numbers_or_names() {
        let classes = |labels: &[&str]| classes_of(labels.iter().copied(), Path::new("f"));
        assert_eq!(classes(&["10", "9", "10", "-1"]).unwrap(), ["-1", "9", "10"]);
        assert_eq!(classes(&["b", "10", "9"]).unwrap(), ["10", "9", "b"]);
        assert!(classes(&["a", "a"]).unwrap_err().to_string().contains("one class only"));
        assert!(classes(&[]).unwrap_err().to_string().ends_with("no images"));
    }

    #[test]
    fn mean_and_deviation_by_hand() {
        let images = Images { pixels: vec![0, 8, 8, 16], labels: vec![1], height: 2, width: 2, ink: 16 };
        let (mean, deviation) = images.mean_and_deviation();
        assert_eq!(mean, 0.5);
        assert!((deviation - 0.125f64.sqrt()).abs() < 1e-15);
    }
}
