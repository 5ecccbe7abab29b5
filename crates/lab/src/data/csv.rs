//! One's own images from CSV files: an image a line, its grey values row after row, then its labels.
//!
//! `train.csv` and `test.csv` in one folder; without the latter every fifth line of each class is for testing. Cells are separated by commas; a
//! first line whose first cell is no number is a header. Grey values are whole numbers from 0 (paper) to `data.ink` (full ink); labels are
//! numbers or words, and the classes are those of the training file.

use std::fs;
use std::path::Path;

use super::{Column, Dataset, Images, class_number, classes_of, data_error, every_fifth, kept};
use crate::error::{Error, Result};
use crate::recipe::DataRecipe;

/// Lines of a file.
struct Lines {
    /// Names of the label columns.
    names: Vec<String>,
    pixels: Vec<u8>,
    /// Grey values of a line.
    size: usize,
    /// Labels as written, a list for each label column.
    labels: Vec<Vec<String>>,
    /// The line in the file of each image.
    places: Vec<usize>,
}

/// The images of a folder.
///
/// # Errors
/// [`Error::MissingData`] without `train.csv`; [`Error::Data`] with the line, and the column where there is one, for a line of another
/// length, a grey value that is none or above full ink, an unknown label, a number of grey values that fits no size, or no images.
pub fn load(dir: &Path, recipe: &DataRecipe) -> Result<Dataset> {
    let file = dir.join("train.csv");
    if !file.exists() {
        return Err(Error::MissingData {
            what: "CSV training images".into(),
            looked_for: file.display().to_string(),
            remedy: "name the folder of train.csv with --data-dir".into(),
        });
    }
    let lines = read(&file, recipe.labels)?;
    let (height, width) = size(recipe, lines.size, &file)?;
    let ink = match recipe.ink {
        0 => lines.pixels.iter().copied().max().unwrap_or(0).max(1),
        ink => ink,
    };
    let columns = lines.labels.iter().map(|labels| classes_of(labels.iter().map(String::as_str), &file));
    let classes: Vec<Vec<String>> = columns.collect::<Result<_>>()?;
    let (all, labels) = images(&lines, &classes, (height, width, ink), &file)?;
    let test_file = dir.join("test.csv");
    let (train, test, of_train, of_test) = if test_file.exists() {
        let lines = read(&test_file, recipe.labels)?;
        if lines.size != height * width {
            let problem = format!("{} grey values a line, {} in train.csv", lines.size, height * width);
            return Err(data_error(&test_file, problem));
        }
        let (test, of_test) = images(&lines, &classes, (height, width, ink), &test_file)?;
        (all, test, labels, of_test)
    } else {
        let out = every_fifth(&all.labels);
        if !out.contains(&true) {
            let problem = "no class has five images, of which one is for testing; add a test.csv";
            return Err(data_error(&file, problem));
        }
        let part = |test: bool| labels.iter().map(|labels| kept(labels, |index| out[index] == test)).collect();
        (all.keep(|index| !out[index]), all.keep(|index| out[index]), part(false), part(true))
    };
    let mut data = Dataset::new("csv", classes[0].clone(), train, test);
    let names = lines.names.into_iter().zip(classes);
    data.columns = names
        .zip(of_train.into_iter().zip(of_test))
        .skip(1)
        .map(|((name, classes), (train, test))| Column { name, classes, train, validation: Vec::new(), test })
        .collect();
    Ok(data)
}

/// Rows and columns of an image.
fn size(recipe: &DataRecipe, pixels: usize, file: &Path) -> Result<(usize, usize)> {
    let side = pixels.isqrt();
    let (height, width) = match (recipe.height, recipe.width) {
        (0, 0) if side * side == pixels => return Ok((side, side)),
        (0, 0) => {
            let problem = format!("{pixels} grey values a line are no square; set data.height and data.width");
            return Err(data_error(file, problem));
        }
        (0, width) => (pixels / width, width),
        (height, 0) => (height, pixels / height),
        size => size,
    };
    match height * width == pixels {
        true => Ok((height, width)),
        false => {
            let problem = format!(
                "{pixels} grey values a line are no image of data.height = {} x data.width = {}; data.labels = {}",
                recipe.height, recipe.width, recipe.labels
            );
            Err(data_error(file, problem))
        }
    }
}

/// The images, and the numbers of all their labels.
fn images(
    lines: &Lines,
    classes: &[Vec<String>],
    (height, width, ink): (usize, usize, u8),
    file: &Path,
) -> Result<(Images, Vec<Vec<u8>>)> {
    if let Some(at) = lines.pixels.iter().position(|&value| value > ink) {
        let (line, column) = (lines.places[at / lines.size], 1 + at % lines.size);
        let problem = format!("line {line}, column {column}: {}, expected 0 to {ink}", lines.pixels[at]);
        return Err(data_error(file, problem));
    }
    let numbers = |(labels, classes): (&Vec<String>, &Vec<String>)| {
        let placed = labels.iter().zip(&lines.places);
        placed.map(|(label, line)| class_number(classes, label, file, &format!("line {line}"))).collect()
    };
    let labels: Vec<Vec<u8>> = lines.labels.iter().zip(classes).map(numbers).collect::<Result<_>>()?;
    let images = Images { pixels: lines.pixels.clone(), labels: labels[0].clone(), height, width, ink };
    Ok((images, labels))
}

fn read(file: &Path, label_columns: usize) -> Result<Lines> {
    let text = fs::read_to_string(file).map_err(Error::read(file))?;
    let mut rows =
        text.lines().enumerate().map(|(index, row)| (index + 1, row)).filter(|(_, row)| !row.trim().is_empty());
    let cells = |row: &str| row.split(',').map(|cell| cell.trim().trim_matches('"').to_owned()).collect::<Vec<_>>();
    let Some((first_line, first)) = rows.next() else { return Err(data_error(file, "no images")) };
    let first = cells(first);
    let Some(size) = first.len().checked_sub(label_columns).filter(|size| *size > 0) else {
        let problem = format!(
            "line {first_line}: {} columns, expected grey values and {label_columns} labels after them",
            first.len()
        );
        return Err(data_error(file, problem));
    };
    let header = first[0].parse::<f64>().is_err();
    let names = match header {
        true => first[size..].to_vec(),
        false => (1..=label_columns).map(|number| format!("label {number}")).collect(),
    };
    let mut lines =
        Lines { names, pixels: Vec::new(), size, labels: vec![Vec::new(); label_columns], places: Vec::new() };
    let body = (!header).then_some((first_line, first)).into_iter().chain(rows.map(|(line, row)| (line, cells(row))));
    for (line, cells) in body {
        if cells.len() != size + label_columns {
            let problem = format!("line {line}: {} columns, expected {}", cells.len(), size + label_columns);
            return Err(data_error(file, problem));
        }
        for (column, cell) in cells[..size].iter().enumerate() {
            let value = cell.parse::<u8>().map_err(|_| {
                let problem =
                    format!("line {line}, column {}: {cell:?}, expected a whole number from 0 to 255", column + 1);
                data_error(file, problem)
            })?;
            lines.pixels.push(value);
        }
        for (labels, label) in lines.labels.iter_mut().zip(&cells[size..]) {
            if label.is_empty() {
                return Err(data_error(file, format!("line {line}: an empty label")));
            }
            labels.push(label.clone());
        }
        lines.places.push(line);
    }
    match lines.places.is_empty() {
        true => Err(data_error(file, "no images")),
        false => Ok(lines),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_texts(train: &str, test: Option<&str>, recipe: &DataRecipe) -> Result<Dataset> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("train.csv"), train).unwrap();
        if let Some(test) = test {
            fs::write(dir.path().join("test.csv"), test).unwrap();
        }
        load(dir.path(), recipe)
    }

    fn error(train: &str, test: Option<&str>, recipe: &DataRecipe) -> String {
        let message = load_texts(train, test, recipe).unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }

    #[test]
    fn images_labels_and_sizes_are_read() {
        let header = "a,b,c,d,kind,old\n";
        let body = "0,1,2,3,cat,no\n4,5,6,9,dog,yes\n";
        let recipe = DataRecipe { labels: 2, ..DataRecipe::default() };
        let data = load_texts(&format!("{header}{body}"), Some("1,1,1,1,dog,no\n"), &recipe).unwrap();
        assert_eq!((data.train.height, data.train.width, data.train.ink), (2, 2, 9));
        assert_eq!((data.train.image(1), &data.train.labels[..]), (&[4u8, 5, 6, 9][..], &[0u8, 1][..]));
        assert_eq!((data.classes, data.test.labels), (vec!["cat".to_owned(), "dog".into()], vec![1]));
        let column = &data.columns[0];
        assert_eq!((column.name.as_str(), &column.train[..], &column.test[..]), ("old", &[0u8, 1][..], &[0u8][..]));
        // Without a test file every fifth of each class; sizes by hand.
        let lines: String = (0..20).map(|i| format!("{i},0,0,{}\n", i % 2)).collect();
        let wide = DataRecipe { height: 1, ink: 255, ..DataRecipe::default() };
        let data = load_texts(&lines, None, &wide).unwrap();
        assert_eq!((data.train.len(), data.test.len(), data.train.width, data.train.ink), (16, 4, 3, 255));
    }

    #[test]
    fn bad_files_are_named_with_line_and_column() {
        let plain = DataRecipe::default();
        let good = "0,1,2,3,0\n0,1,2,3,1\n";
        for (train, end) in [
            ("", "train.csv: no images"),
            ("a,b,c,d,label\n", "train.csv: no images"),
            ("0,1,2,3,0\n0,1,2,1\n", "train.csv: line 2: 4 columns, expected 5"),
            ("0,1,2,3,0\n0,x,2,3,1\n", "line 2, column 2: \"x\", expected a whole number from 0 to 255"),
            ("0,1,2,3,0\n0,256,2,3,1\n", "line 2, column 2: \"256\", expected a whole number from 0 to 255"),
            ("0,1,2,3,0\n0,1,2,3,0\n", "one class only, \"0\": there is nothing to tell apart"),
            ("0,1,2,3,0\n0,1,2,3,\n", "line 2: an empty label"),
            ("0,1,2,0\n0,1,2,1\n", "3 grey values a line are no square; set data.height and data.width"),
            (good, "no class has five images, of which one is for testing; add a test.csv"),
        ] {
            assert!(error(train, None, &plain).ends_with(end), "{}", error(train, None, &plain));
        }
        let test = |text: &str, recipe: &DataRecipe| error(good, Some(text), recipe);
        assert!(test("0,1,2,3,7\n", &plain).ends_with("line 1: unknown label \"7\" (those of the training set: 0, 1)"));
        assert!(test("0,1,1\n", &plain).ends_with("test.csv: 2 grey values a line, 4 in train.csv"));
        assert!(test("0,1,2,4,1\n", &plain).ends_with("test.csv: line 1, column 4: 4, expected 0 to 3"));
        let dark = DataRecipe { ink: 2, ..DataRecipe::default() };
        assert!(error(good, None, &dark).ends_with("train.csv: line 1, column 4: 3, expected 0 to 2"));
        let wide = DataRecipe { width: 3, ..DataRecipe::default() };
        assert!(
            error(good, None, &wide).contains("4 grey values a line are no image of data.height = 0 x data.width = 3")
        );
        let many = DataRecipe { labels: 8, ..DataRecipe::default() };
        assert!(error(good, None, &many).ends_with("expected grey values and 8 labels after them"));
        let dir = tempfile::tempdir().unwrap();
        assert!(load(dir.path(), &plain).unwrap_err().to_string().starts_with("CSV training images: none of "));
    }
}
