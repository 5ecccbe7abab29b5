//! MNIST and its relatives from IDX files, plain or compressed with gzip.
//!
//! An IDX file of bytes is a magic number (`0x00000803` for images, `0x00000801` for labels), one big-endian 32-bit size per
//! dimension, and the values. Format: <https://yann.lecun.org/exdb/mnist/>.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use super::{CLASSES, Dataset, Images, data_error};
use crate::error::{Error, Result};

const IMAGES: u32 = 0x0803;
const LABELS: u32 = 0x0801;

/// The four files of MNIST in `dir`: `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the two `t10k-` files, each
/// with or without `.gz` (and with `.idx` instead of `-idx`).
///
/// # Errors
/// [`Error::MissingData`], [`Error::Read`], or [`Error::Data`] where a file is truncated or longer than its header says, has
/// the wrong magic number, no examples, a label above 9, or does not match the others in size or number.
pub fn load_mnist(dir: &Path) -> Result<Dataset> {
    load_named(dir, "mnist", "MNIST", CLASSES)
}

/// One's own images in files named as MNIST's; the classes are 0 to the largest label of the training set.
///
/// # Errors
/// Those of [`load_mnist`]; [`Error::Data`] for a test label above those of the training set, or for a single class.
pub fn load(dir: &Path) -> Result<Dataset> {
    let data = load_named(dir, "idx", "IDX", 256)?;
    let classes = 1 + usize::from(*data.train.labels.iter().max().expect("there are examples"));
    if classes < 2 {
        return Err(data_error(dir, "every training label is 0: there is nothing to tell apart"));
    }
    if let Some(index) = data.test.labels.iter().position(|&label| usize::from(label) >= classes) {
        let problem = format!(
            "test label {index} is {}, those of the training set go up to {}",
            data.test.labels[index],
            classes - 1
        );
        return Err(data_error(dir, problem));
    }
    Ok(Dataset { classes: data.classes[..classes].to_vec(), ..data })
}

fn load_named(dir: &Path, name: &'static str, title: &str, classes: usize) -> Result<Dataset> {
    let train = load_part(dir, "train", &format!("{title} training"), classes)?;
    let test = load_part(dir, "t10k", &format!("{title} test"), classes)?;
    if (train.height, train.width) != (test.height, test.width) {
        let problem = format!(
            "test images of {} x {} pixels, training images of {} x {}",
            test.height, test.width, train.height, train.width
        );
        return Err(data_error(dir, problem));
    }
    Ok(Dataset::new(name, (0..classes).map(|class| class.to_string()).collect(), train, test))
}

/// The images and labels of the files that begin with `prefix` in `dir`; `what` names them in errors.
///
/// # Errors
/// Those of [`load_mnist`].
pub fn load_images(dir: &Path, prefix: &str, what: &str) -> Result<Images> {
    load_part(dir, prefix, what, CLASSES)
}

fn load_part(dir: &Path, prefix: &str, what: &str, classes: usize) -> Result<Images> {
    let find = |kind: &str, rank: u32| {
        let plain = [format!("{prefix}-{kind}-idx{rank}-ubyte"), format!("{prefix}-{kind}.idx{rank}-ubyte")];
        let names = plain.iter().flat_map(|name| [format!("{name}.gz"), name.clone()]);
        let paths: Vec<_> = names.map(|name| dir.join(name)).collect();
        paths.iter().find(|path| path.exists()).cloned().ok_or_else(|| Error::MissingData {
            what: format!("{what} {kind}"),
            looked_for: format!("{} and {} (plain or .gz)", paths[1].display(), paths[3].display()),
            remedy: match what.starts_with("MNIST") {
                true => {
                    "get the four files from https://storage.googleapis.com/cvdf-datasets/mnist/ \
                         and name their folder with --data-dir"
                }
                false => "name the folder of the four files with --data-dir",
            }
            .into(),
        })
    };
    let (image_path, label_path) = (find("images", 3)?, find("labels", 1)?);
    let (sizes, pixels) = read(&image_path, IMAGES)?;
    let (_, labels) = read(&label_path, LABELS)?;
    if labels.len() != sizes[0] {
        return Err(data_error(
            &label_path,
            format!("{} labels for the {} images of {}", labels.len(), sizes[0], image_path.display()),
        ));
    }
    if let Some(index) = labels.iter().position(|&label| usize::from(label) >= classes) {
        let problem = format!("label {index} is {}, expected 0 to {}", labels[index], classes - 1);
        return Err(data_error(&label_path, problem));
    }
    Ok(Images { pixels, labels, height: sizes[1], width: sizes[2], ink: u8::MAX })
}

/// Sizes and values of an IDX file of bytes with this magic number.
///
/// # Errors
/// [`Error::Read`] or [`Error::Data`].
pub fn read(path: &Path, magic: u32) -> Result<(Vec<usize>, Vec<u8>)> {
    let mut file = BufReader::new(File::open(path).map_err(Error::read(path))?);
    let zipped = file.fill_buf().map_err(Error::read(path))?.starts_with(&[0x1f, 0x8b]);
    let reader: Box<dyn Read> = if zipped { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    parse(reader, magic, path)
}

fn parse(mut reader: impl Read, magic: u32, path: &Path) -> Result<(Vec<usize>, Vec<u8>)> {
    let mut number = |what: &str| {
        let mut bytes = [0; 4];
        match reader.read_exact(&mut bytes) {
            Ok(()) => Ok(u32::from_be_bytes(bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(data_error(path, format!("truncated: the file ends before its {what}")))
            }
            Err(error) => Err(data_error(path, format!("{what} cannot be read: {error}"))),
        }
    };
    let found = number("magic number")?;
    if found != magic {
        return Err(data_error(path, format!("magic number 0x{found:08x}, expected 0x{magic:08x}")));
    }
    let rank = magic & 0xff;
    let sizes: Vec<usize> =
        (1..=rank).map(|axis| Ok(number(&format!("size of dimension {axis}"))? as usize)).collect::<Result<_>>()?;
    let shape = sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ");
    let expected = sizes
        .iter()
        .try_fold(1usize, |product, &size| product.checked_mul(size))
        .filter(|&bytes| bytes < isize::MAX as usize)
        .ok_or_else(|| data_error(path, format!("sizes {shape} are too large")))?;
    if expected == 0 {
        return Err(data_error(path, format!("sizes {shape}: no examples")));
    }
    let mut values = Vec::new();
    let result = reader.take(expected as u64 + 1).read_to_end(&mut values);
    let found = values.len();
    match result {
        Ok(_) if found == expected => Ok((sizes, values)),
        Ok(_) if found > expected => {
            Err(data_error(path, format!("longer than the {expected} bytes that sizes {shape} promise")))
        }
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
            Err(data_error(path, format!("byte {found} cannot be read: {error}")))
        }
        _ => Err(data_error(path, format!("truncated: {found} of the {expected} bytes that sizes {shape} promise"))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn file(magic: u32, sizes: &[u32], values: &[u8]) -> Vec<u8> {
        let mut bytes = magic.to_be_bytes().to_vec();
        sizes.iter().for_each(|size| bytes.extend(size.to_be_bytes()));
        bytes.extend(values);
        bytes
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn error(bytes: &[u8], magic: u32) -> String {
        let message = parse(bytes, magic, Path::new("f")).unwrap_err().to_string();
        assert!(!message.contains('\n'));
        message
    }

    #[test]
    fn reads_plain_and_gzip() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = file(IMAGES, &[2, 1, 3], &[1, 2, 3, 4, 5, 6]);
        for content in [bytes.clone(), gzip(&bytes)] {
            let path = dir.path().join("images");
            fs::write(&path, content).unwrap();
            assert_eq!(read(&path, IMAGES).unwrap(), (vec![2, 1, 3], vec![1, 2, 3, 4, 5, 6]));
        }
    }

    #[test]
    fn bad_files_are_named() {
        let good = file(LABELS, &[3], &[1, 2, 3]);
        assert_eq!(error(b"", LABELS), "f: truncated: the file ends before its magic number");
        assert_eq!(error(&good[..6], LABELS), "f: truncated: the file ends before its size of dimension 1");
        assert_eq!(error(&good, IMAGES), "f: magic number 0x00000801, expected 0x00000803");
        assert_eq!(error(&good[..10], LABELS), "f: truncated: 2 of the 3 bytes that sizes 3 promise");
        assert_eq!(error(&[&good[..], &[4]].concat(), LABELS), "f: longer than the 3 bytes that sizes 3 promise");
        assert_eq!(error(&file(LABELS, &[0], &[]), LABELS), "f: sizes 0: no examples");
        assert_eq!(error(&file(IMAGES, &[2, 0, 2], &[]), IMAGES), "f: sizes 2 x 0 x 2: no examples");
        assert!(error(&file(IMAGES, &[u32::MAX; 3], &[]), IMAGES).ends_with("are too large"));
        // A huge size that fits an address space is found truncated without being allocated first.
        assert!(error(&file(IMAGES, &[u32::MAX, 1000, 1000], &[]), IMAGES).starts_with("f: truncated: 0 of"));
    }

    #[test]
    fn ones_own_files_have_the_classes_of_their_labels() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: Vec<u8>| fs::write(dir.path().join(name), bytes).unwrap();
        let error = || load(dir.path()).unwrap_err().to_string();
        assert!(error().starts_with("IDX training images: none of ") && !error().contains("mnist"));
        put("train-images-idx3-ubyte", file(IMAGES, &[3, 1, 1], &[0, 1, 2]));
        put("train-labels-idx1-ubyte", file(LABELS, &[3], &[0, 12, 1]));
        put("t10k-images-idx3-ubyte", file(IMAGES, &[1, 1, 1], &[0]));
        put("t10k-labels-idx1-ubyte", file(LABELS, &[1], &[13]));
        assert!(error().ends_with("test label 0 is 13, those of the training set go up to 12"));
        put("t10k-labels-idx1-ubyte", file(LABELS, &[1], &[12]));
        assert_eq!(load(dir.path()).unwrap().classes.len(), 13);
        put("train-labels-idx1-ubyte", file(LABELS, &[3], &[0, 0, 0]));
        assert!(error().contains("nothing to tell apart"));
    }

    #[test]
    fn truncated_gzip_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labels.gz");
        let values: Vec<u8> = (0..5000u32).map(|value| (value * value % 251) as u8).collect();
        let bytes = gzip(&file(LABELS, &[5000], &values));
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let message = read(&path, LABELS).unwrap_err().to_string();
        assert!(message.contains("truncated: ") && message.contains("of the 5000 bytes"), "{message}");
        let mut broken = bytes.clone();
        broken[bytes.len() / 2] ^= 0x55;
        fs::write(&path, &broken).unwrap();
        assert!(matches!(read(&path, LABELS), Err(Error::Data { .. })));
    }

    #[test]
    fn the_four_files_are_checked_against_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: Vec<u8>| fs::write(dir.path().join(name), bytes).unwrap();
        let load = || load_mnist(dir.path()).map_err(|error| error.to_string());
        let message = load().unwrap_err();
        assert!(message.starts_with("MNIST training images: none of ") && message.contains("--data-dir"), "{message}");
        put("train-images-idx3-ubyte", file(IMAGES, &[2, 1, 2], &[0, 1, 2, 3]));
        assert!(load().unwrap_err().starts_with("MNIST training labels: none of "));
        put("train-labels-idx1-ubyte.gz", gzip(&file(LABELS, &[3], &[1, 2, 3])));
        assert!(load().unwrap_err().contains("3 labels for the 2 images of "));
        put("train-labels-idx1-ubyte.gz", gzip(&file(LABELS, &[2], &[1, 10])));
        assert!(load().unwrap_err().ends_with("label 1 is 10, expected 0 to 9"));
        put("train-labels-idx1-ubyte.gz", gzip(&file(LABELS, &[2], &[1, 9])));
        put("t10k-images.idx3-ubyte", file(IMAGES, &[1, 2, 2], &[0; 4]));
        put("t10k-labels.idx1-ubyte", file(LABELS, &[1], &[0]));
        assert!(load().unwrap_err().ends_with("test images of 2 x 2 pixels, training images of 1 x 2"));
        put("t10k-images.idx3-ubyte", file(IMAGES, &[1, 1, 2], &[9; 2]));
        let data = load().unwrap();
        assert_eq!((data.train.len(), data.test.image(0)), (2, &[9u8, 9][..]));
    }
}
