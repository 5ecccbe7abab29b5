//! One's own images from PNG files, a folder a class: `train/<class>/*.png` and `test/<class>/*.png`, or `<class>/*.png` alone, of which
//! every fifth is then for testing.
//!
//! All of one size. Colours become grey by their luma (ITU-R BT.601), 16 bits become 8, transparency is not looked at. Grey values are taken
//! as they are: 0 is black, 255 white and "full ink", as in MNIST.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Dataset, Images, class_number, classes_of, data_error, every_fifth};
use crate::error::{Error, Result};
use crate::png::Png;

/// The images of a folder.
///
/// # Errors
/// [`Error::MissingData`] without folders of classes; [`Error::Data`] for an empty folder, a file that is no PNG or of another size than
/// the first, a class of the test set that the training set has not, or a single class.
pub fn load(dir: &Path) -> Result<Dataset> {
    let split = dir.join("train").is_dir();
    let root = if split { dir.join("train") } else { dir.to_owned() };
    let folders = classes_in(&root)?;
    if folders.is_empty() {
        return Err(Error::MissingData {
            what: "PNG training images".into(),
            looked_for: format!("{} and {}", dir.join("train/<class>").display(), dir.join("<class>").display()),
            remedy: "name the folder that holds a folder for each class with --data-dir".into(),
        });
    }
    let names: Vec<String> = folders.iter().map(|folder| name(folder)).collect();
    let classes = classes_of(names.iter().map(String::as_str), &root)?;
    let mut size = None;
    let all = read(&folders, &classes, &mut size)?;
    let (train, test) = if split {
        let root = dir.join("test");
        let folders = if root.is_dir() { classes_in(&root)? } else { Vec::new() };
        if folders.is_empty() {
            return Err(data_error(&root, "no folder of a class, though there is a folder train beside it"));
        }
        (all, read(&folders, &classes, &mut size)?)
    } else {
        let out = every_fifth(&all.labels);
        if !out.contains(&true) {
            return Err(data_error(
                dir,
                "no class has five images, of which one is for testing; add folders train and test",
            ));
        }
        (all.keep(|index| !out[index]), all.keep(|index| out[index]))
    };
    Ok(Dataset::new("png", classes, train, test))
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What is in a folder, by name, without hidden files.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::read(dir))? {
        let path = entry.map_err(Error::read(dir))?.path();
        if !name(&path).starts_with('.') {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn classes_in(root: &Path) -> Result<Vec<PathBuf>> {
    Ok(entries(root)?.into_iter().filter(|path| path.is_dir()).collect())
}

fn read(folders: &[PathBuf], classes: &[String], size: &mut Option<(usize, usize, PathBuf)>) -> Result<Images> {
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for folder in folders {
        let label = class_number(classes, &name(folder), folder, "this folder")?;
        let is_png = |path: &PathBuf| path.extension().is_some_and(|end| end.eq_ignore_ascii_case("png"));
        let files: Vec<PathBuf> = entries(folder)?.into_iter().filter(is_png).collect();
        if files.is_empty() {
            return Err(data_error(folder, "holds no PNG file"));
        }
        for file in files {
            let (height, width, grey) = decode(&file)?;
            match size {
                None => *size = Some((height, width, file)),
                Some((h, w, first)) if (*h, *w) != (height, width) => {
                    let problem = format!("{height} x {width} pixels, {} has {h} x {w}", first.display());
                    return Err(data_error(&file, problem));
                }
                Some(_) => {}
            }
            pixels.extend(grey);
            labels.push(label);
        }
    }
    let (height, width, _) = size.as_ref().expect("there is a file in each folder");
    Ok(Images { pixels, labels, height: *height, width: *width, ink: u8::MAX })
}

/// Height, width and grey values of a file.
fn decode(path: &Path) -> Result<(usize, usize, Vec<u8>)> {
    let png = Png::read(path)?;
    let luma = |pixel: &[u8]| match *pixel {
        [r, g, b] => ((299 * u32::from(r) + 587 * u32::from(g) + 114 * u32::from(b) + 500) / 1000) as u8,
        _ => pixel[0],
    };
    Ok((png.height(), png.width, png.samples.chunks(png.channels).map(luma).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use png::ColorType;

    fn put(path: PathBuf, colour: ColorType, width: u32, height: u32, data: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut encoder = png::Encoder::new(fs::File::create(path).unwrap(), width, height);
        encoder.set_color(colour);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.write_header().unwrap().write_image_data(data).unwrap();
    }

    fn grey(path: PathBuf, data: &[u8; 2]) {
        put(path, ColorType::Grayscale, 2, 1, data);
    }

    fn error(dir: &Path) -> String {
        let message = load(dir).unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }

    #[test]
    fn folders_are_classes_and_colours_become_grey() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        grey(at("train/10/a.png"), &[1, 2]);
        grey(at("train/9/b.PNG"), &[3, 4]);
        put(at("train/9/c.png"), ColorType::Rgb, 2, 1, &[255, 255, 255, 255, 0, 0]);
        put(at("test/10/d.png"), ColorType::Rgba, 2, 1, &[0, 0, 255, 9, 0, 255, 0, 200]);
        fs::write(at("train/9/notes.txt"), "no image").unwrap();
        let data = load(root.path()).unwrap();
        assert_eq!((data.classes, &data.train.labels[..]), (vec!["9".to_owned(), "10".into()], &[1u8, 0, 0][..]));
        assert_eq!(data.train.pixels, [1, 2, 3, 4, 255, 76]);
        assert_eq!((data.test.pixels, data.test.labels), (vec![29, 150], vec![1]));
        assert_eq!((data.train.height, data.train.width, data.train.ink), (1, 2, 255));
        let alone = tempfile::tempdir().unwrap();
        for index in 0..10u8 {
            grey(alone.path().join(format!("{}/{index}.png", ["a", "b"][usize::from(index % 2)])), &[index, 0]);
        }
        let data = load(alone.path()).unwrap();
        assert_eq!((data.train.len(), data.test.pixels), (8, vec![8, 0, 9, 0]));
    }

    #[test]
    fn bad_folders_are_named() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        assert!(error(root.path()).starts_with("PNG training images: none of "));
        fs::create_dir_all(at("train/a")).unwrap();
        assert!(error(root.path()).contains("one class only, \"a\""));
        grey(at("train/b/1.png"), &[0, 0]);
        assert!(error(root.path()).ends_with("train/a: holds no PNG file"));
        put(at("train/a/1.png"), ColorType::Grayscale, 1, 2, &[0, 0]);
        assert!(error(root.path()).contains("b/1.png: 1 x 2 pixels, ") && error(root.path()).ends_with("has 2 x 1"));
        grey(at("train/a/1.png"), &[0, 0]);
        assert!(error(root.path()).ends_with("test: no folder of a class, though there is a folder train beside it"));
        grey(at("test/c/1.png"), &[0, 0]);
        assert!(error(root.path()).ends_with("unknown label \"c\" (those of the training set: a, b)"));
        fs::remove_dir_all(at("test/c")).unwrap();
        fs::create_dir_all(at("test/a")).unwrap();
        fs::write(at("test/a/1.png"), "no image").unwrap();
        assert!(error(root.path()).contains("a/1.png: is no PNG that can be read: "));
        let few = tempfile::tempdir().unwrap();
        grey(few.path().join("a/1.png"), &[0, 0]);
        grey(few.path().join("b/1.png"), &[0, 0]);
        assert!(error(few.path()).contains("no class has five images"));
    }
}
