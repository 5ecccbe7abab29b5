//! The embedded UCI digits: 1,797 images of 8 × 8 pixels (source and licence in `data/README.md` of this crate).

use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;

use super::{CLASSES, Dataset, Images, data_error, every_fifth};
use crate::error::Result;

const FILE: &[u8] = include_bytes!("../../data/digits.csv.gz");
const SIDE: usize = 8;
const INK: u8 = 16;

/// The digits; of each class every fifth example in file order is for testing, which gives 1,442 and 355 images
/// and the same split in every run.
///
/// # Errors
/// None with the file as shipped.
pub fn load() -> Result<Dataset> {
    let origin = Path::new("the embedded digits");
    let mut text = String::new();
    GzDecoder::new(FILE)
        .read_to_string(&mut text)
        .map_err(|error| data_error(origin, format!("cannot be unpacked: {error}")))?;
    let all = parse(&text, origin)?;
    let for_test = every_fifth(&all.labels);
    let classes = (0..CLASSES).map(|class| class.to_string()).collect();
    let [train, test] = [false, true].map(|test| all.keep(|index| for_test[index] == test));
    Ok(Dataset::new("digits", classes, train, test))
}

/// Images from lines of 64 grey values 0..16 and a label 0..9, separated by commas; `origin` names them in errors.
///
/// # Errors
/// [`Error::Data`](crate::error::Error::Data) with the line and what is wrong there.
pub fn parse(text: &str, origin: &Path) -> Result<Images> {
    let mut images = Images { pixels: Vec::new(), labels: Vec::new(), height: SIDE, width: SIDE, ink: INK };
    for (line, row) in text.lines().enumerate().map(|(index, row)| (index + 1, row)) {
        let columns: Vec<&str> = row.split(',').collect();
        let expected = SIDE * SIDE + 1;
        if columns.len() != expected {
            return Err(data_error(origin, format!("line {line}: {} columns, expected {expected}", columns.len())));
        }
        for (column, text) in columns.iter().enumerate() {
            let is_label = column + 1 == expected;
            let high = if is_label { CLASSES as u8 - 1 } else { INK };
            match text.trim().parse::<u8>() {
                Ok(value) if value <= high && is_label => images.labels.push(value),
                Ok(value) if value <= high => images.pixels.push(value),
                _ => {
                    let column = column + 1;
                    let problem = format!("line {line}, column {column}: {text:?}, expected 0 to {high}");
                    return Err(data_error(origin, problem));
                }
            }
        }
    }
    if images.is_empty() {
        return Err(data_error(origin, "no images"));
    }
    Ok(images)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_digits_are_complete_and_split_evenly() {
        let data = load().unwrap();
        assert_eq!(data.train.len() + data.test.len(), 1797);
        assert_eq!(data.train.pixels.len(), data.train.len() * 64);
        for class in 0..CLASSES as u8 {
            let count = |images: &Images| images.labels.iter().filter(|&&label| label == class).count();
            assert_eq!(count(&data.test), (count(&data.test) + count(&data.train)) / 5, "class {class}");
        }
        assert_eq!(data.train.image(0)[..8], [0, 0, 5, 13, 9, 1, 0, 0]);
        assert_eq!(data.train.labels[..4], [0, 1, 2, 3]);
    }

    #[test]
    fn bad_lines_are_named() {
        let good = format!("{}7", "1,".repeat(64));
        let error = |text: &str| parse(text, Path::new("d.csv")).unwrap_err().to_string();
        assert_eq!(parse(&good, Path::new("")).unwrap().labels, [7]);
        assert_eq!(error(""), "d.csv: no images");
        assert_eq!(error(&format!("{good}\n1,2")), "d.csv: line 2: 2 columns, expected 65");
        assert_eq!(error(&good.replacen("1,", "17,", 1)), "d.csv: line 1, column 1: \"17\", expected 0 to 16");
        assert_eq!(error(&good.replace('7', "10")), "d.csv: line 1, column 65: \"10\", expected 0 to 9");
        assert_eq!(error(&good.replacen('1', "x", 1)), "d.csv: line 1, column 1: \"x\", expected 0 to 16");
    }
}
