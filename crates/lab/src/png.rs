//! PNG files of 8 bits a sample, grey or RGB, not interlaced: written without filters, read with all of them.
//!
//! Reference: W3C, "Portable Network Graphics (PNG) Specification (Second Edition)", 2003.

use std::io::{Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::Crc;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

use crate::error::{Error, Result};

const SIGNATURE: &[u8; 8] = b"\x89PNG\r\n\x1a\n";
/// PNG's numbers for what a pixel is made of.
const GREY: u8 = 0;
const COLOUR: u8 = 2;
/// No picture here has more pixels a side.
const LARGEST: usize = 4096;

/// A picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Png {
    /// Columns.
    pub width: usize,
    /// Samples a pixel: 1 (grey) or 3 (red, green, blue).
    pub channels: usize,
    /// Row after row, pixel after pixel.
    pub samples: Vec<u8>,
}

impl Png {
    /// Rows.
    pub fn height(&self) -> usize {
        self.samples.len() / (self.width * self.channels)
    }

    /// The file.
    ///
    /// # Panics
    /// If the samples are not whole rows, or the channels neither 1 nor 3: that is a bug of the caller.
    pub fn encode(&self) -> Vec<u8> {
        let stride = self.width * self.channels;
        assert!(self.samples.len().is_multiple_of(stride), "whole rows");
        let kind = match self.channels {
            1 => GREY,
            3 => COLOUR,
            other => panic!("{other} channels"),
        };
        let mut rows = ZlibEncoder::new(Vec::new(), Compression::best());
        for row in self.samples.chunks(stride) {
            let line: Vec<u8> = std::iter::once(0).chain(row.iter().copied()).collect(); // 0: no filter
            rows.write_all(&line).expect("writing into memory");
        }
        let mut header = Vec::new();
        header.extend((self.width as u32).to_be_bytes());
        header.extend((self.height() as u32).to_be_bytes());
        header.extend([8, kind, 0, 0, 0]); // 8 bits a sample, deflate, the standard filters, not interlaced
        let mut file = SIGNATURE.to_vec();
        chunk(&mut file, b"IHDR", &header);
        chunk(&mut file, b"IDAT", &rows.finish().expect("writing into memory"));
        chunk(&mut file, b"IEND", &[]);
        file
    }

    /// The picture in a file.
    ///
    /// # Errors
    /// [`Error::Read`], and [`Error::Data`] for what is no PNG, damaged, or of a form that is not read here.
    pub fn read(path: &Path) -> Result<Self> {
        let file = std::fs::read(path).map_err(Error::read(path))?;
        Self::decode(&file).map_err(|problem| Error::Data { origin: path.display().to_string(), problem })
    }

    /// The picture in the bytes of a file.
    ///
    /// # Errors
    /// What is wrong with them, in words.
    pub fn decode(file: &[u8]) -> Result<Self, String> {
        let mut rest = file.strip_prefix(SIGNATURE).ok_or("is no PNG file")?;
        let (mut header, mut packed) = (None, Vec::new());
        loop {
            let (kind, content) = next_chunk(&mut rest)?;
            match (&kind, header) {
                (b"IHDR", _) => header = Some(read_header(content)?),
                (_, None) => return Err("is damaged: does not begin with its header".into()),
                (b"IDAT", _) => packed.extend(content),
                (b"IEND", _) => break,
                // Upper case: nobody can read the picture without.
                (kind, _) if kind[0].is_ascii_uppercase() => {
                    return Err(format!("has a part {:?}, which is not read here", String::from_utf8_lossy(kind)));
                }
                _ => {}
            }
        }
        let (width, height, channels) = header.expect("came before the end");
        let stride = width * channels;
        let mut lines = Vec::new();
        // One byte more than there should be, to tell too many from enough.
        let limit = ((stride + 1) * height + 1) as u64;
        ZlibDecoder::new(&packed[..])
            .take(limit)
            .read_to_end(&mut lines)
            .map_err(|error| format!("is damaged: its pixels cannot be unpacked: {error}"))?;
        if lines.len() != (stride + 1) * height {
            return Err(format!("is damaged: not the {height} rows of {width} pixels that its header says"));
        }
        let mut samples: Vec<u8> = Vec::with_capacity(stride * height);
        for line in lines.chunks(stride + 1) {
            let start = samples.len();
            for (i, sample) in line[1..].iter().enumerate() {
                let at = |back: usize, there: bool| if there { samples[start + i - back] } else { 0 };
                let left = at(channels, i >= channels);
                let above = at(stride, start > 0);
                let before = at(stride + channels, start > 0 && i >= channels);
                let guess = match line[0] {
                    0 => 0,
                    1 => left,
                    2 => above,
                    3 => ((u16::from(left) + u16::from(above)) / 2) as u8,
                    4 => paeth(left, above, before),
                    other => return Err(format!("is damaged: a row with filter {other}, expected 0 to 4")),
                };
                samples.push(sample.wrapping_add(guess));
            }
        }
        Ok(Self { width, channels, samples })
    }
}

/// The nearest of the three to what a plane through them would give (Paeth).
fn paeth(left: u8, above: u8, before: u8) -> u8 {
    let guess = i16::from(left) + i16::from(above) - i16::from(before);
    let far = |x: &u8| (guess - i16::from(*x)).abs();
    // The first of equals, in this order.
    [left, above, before].into_iter().min_by_key(far).expect("three")
}

/// Width, height and channels.
fn read_header(content: &[u8]) -> Result<(usize, usize, usize), String> {
    let Ok(content) = <&[u8; 13]>::try_from(content) else {
        return Err(format!("is damaged: a header of {} bytes, expected 13", content.len()));
    };
    let number = |i: usize| u32::from_be_bytes([content[i], content[i + 1], content[i + 2], content[i + 3]]) as usize;
    let (width, height) = (number(0), number(4));
    if !(1..=LARGEST).contains(&width) || !(1..=LARGEST).contains(&height) {
        return Err(format!("{width} x {height} pixels, expected 1 to {LARGEST} a side"));
    }
    let channels = match (content[9], content[8]) {
        (GREY, 8) => 1,
        (COLOUR, 8) => 3,
        (kind, bits) => {
            let name = match kind {
                GREY => "grey",
                COLOUR => "RGB",
                3 => "with a palette",
                4 => "grey with transparency",
                6 => "RGB with transparency",
                _ => "of no known colours",
            };
            return Err(format!("is {name}, {bits} bits a sample, expected grey or RGB of 8 bits"));
        }
    };
    match content[12] {
        0 => Ok((width, height, channels)),
        _ => Err("is interlaced, which is not read here".into()),
    }
}

/// Takes the next part of a file: its kind and content.
fn next_chunk<'a>(rest: &mut &'a [u8]) -> Result<([u8; 4], &'a [u8]), String> {
    let ended = || "is damaged: it ends too early".to_owned();
    let (length, after) = rest.split_first_chunk::<4>().ok_or_else(ended)?;
    let length = u32::from_be_bytes(*length) as usize;
    let (kind, _) = after.split_first_chunk::<4>().ok_or_else(ended)?;
    if after.len() < 8 || after.len() - 8 < length {
        return Err(ended());
    }
    let (content, next) = (&after[4..4 + length], &after[4 + length..]);
    let mut sum = Crc::new();
    sum.update(&after[..4 + length]);
    let (expected, next) = next.split_first_chunk::<4>().ok_or_else(ended)?;
    if sum.sum().to_be_bytes() != *expected {
        return Err(format!("is damaged: the checksum of {:?} is wrong", String::from_utf8_lossy(kind)));
    }
    *rest = next;
    Ok((*kind, content))
}

/// A part of a PNG file: length, kind, content, checksum of the last two.
fn chunk(file: &mut Vec<u8>, kind: &[u8; 4], content: &[u8]) {
    let mut sum = Crc::new();
    sum.update(kind);
    sum.update(content);
    file.extend((content.len() as u32).to_be_bytes());
    file.extend(kind);
    file.extend(content);
    file.extend(sum.sum().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_tensor::Random;

    fn picture(width: usize, height: usize, channels: usize, seed: u64) -> Png {
        let mut random = Random::new(seed);
        let samples = (0..width * height * channels).map(|_| random.below(256) as u8).collect();
        Png { width, channels, samples }
    }

    /// A file of rows with these filters, by the specification's own words: each sample less the guess from the ones before.
    fn filtered(png: &Png, filters: &[u8]) -> Vec<u8> {
        let (stride, back) = (png.width * png.channels, png.channels);
        let sample = |row: isize, i: isize| match row < 0 || i < 0 {
            true => 0i32,
            false => i32::from(png.samples[row as usize * stride + i as usize]),
        };
        let mut rows = ZlibEncoder::new(Vec::new(), Compression::fast());
        for (row, filter) in (0..png.height() as isize).zip(filters.iter().cycle()) {
            let mut line = vec![*filter];
            for i in 0..stride as isize {
                let (a, b, c) =
                    (sample(row, i - back as isize), sample(row - 1, i), sample(row - 1, i - back as isize));
                let p = a + b - c;
                let (pa, pb, pc) = ((p - a).abs(), (p - b).abs(), (p - c).abs());
                let nearest = if pa <= pb && pa <= pc {
                    a
                } else if pb <= pc {
                    b
                } else {
                    c
                };
                let guess = [0, a, b, (a + b) / 2, nearest][usize::from(*filter)];
                line.push((sample(row, i) - guess).rem_euclid(256) as u8);
            }
            rows.write_all(&line).unwrap();
        }
        // The encoder's own file with its pixels exchanged, in two parts and with a comment.
        let whole = png.encode();
        let mut file = whole[..33].to_vec();
        chunk(&mut file, b"tEXt", b"Title\0noise");
        let packed = rows.finish().unwrap();
        chunk(&mut file, b"IDAT", &packed[..packed.len() / 2]);
        chunk(&mut file, b"IDAT", &packed[packed.len() / 2..]);
        chunk(&mut file, b"IEND", &[]);
        file
    }

    #[test]
    fn what_is_written_reads_back_through_every_filter() {
        for (seed, (width, height, channels)) in
            [(1, 1, 1), (8, 8, 1), (7, 5, 3), (28, 28, 1), (3, 9, 3)].into_iter().enumerate()
        {
            let png = picture(width, height, channels, seed as u64);
            assert_eq!(Png::decode(&png.encode()).unwrap(), png);
            for filters in [&[0][..], &[1], &[2], &[3], &[4], &[4, 3, 2, 1, 0]] {
                assert_eq!(Png::decode(&filtered(&png, filters)).unwrap(), png, "{filters:?}");
            }
        }
    }

    #[test]
    fn what_is_no_such_file_is_said() {
        let png = picture(4, 3, 1, 1);
        let file = png.encode();
        let error = |file: &[u8]| Png::decode(file).unwrap_err();
        assert_eq!(error(b"GIF89a"), "is no PNG file");
        for length in 8..file.len() {
            let said = error(&file[..length]);
            assert!(said.starts_with("is damaged: it ends too early"), "{length}: {said}");
        }
        let mut flipped = file.clone();
        flipped[45] ^= 1;
        assert_eq!(error(&flipped), "is damaged: the checksum of \"IDAT\" is wrong");
        let with_header = |header: &[u8]| {
            let mut other = SIGNATURE.to_vec();
            chunk(&mut other, b"IHDR", header);
            other.extend(&file[33..]);
            error(&other)
        };
        let header = |i: usize, value: u8| {
            let mut header = file[16..29].to_vec();
            header[i] = value;
            with_header(&header)
        };
        assert_eq!(header(3, 0), "0 x 3 pixels, expected 1 to 4096 a side");
        assert_eq!(header(8, 16), "is grey, 16 bits a sample, expected grey or RGB of 8 bits");
        assert_eq!(header(9, 6), "is RGB with transparency, 8 bits a sample, expected grey or RGB of 8 bits");
        assert_eq!(header(12, 1), "is interlaced, which is not read here");
        assert_eq!(header(7, 2), "is damaged: not the 2 rows of 4 pixels that its header says");
        assert_eq!(header(7, 4), "is damaged: not the 4 rows of 4 pixels that its header says");
        assert_eq!(with_header(&[0; 12]), "is damaged: a header of 12 bytes, expected 13");
        let mut first = SIGNATURE.to_vec();
        first.extend(&file[33..]);
        assert_eq!(error(&first), "is damaged: does not begin with its header");
        let mut bad = filtered(&png, &[0]);
        bad.truncate(bad.len() - 12);
        chunk(&mut bad, b"PLTE", &[0; 3]);
        assert_eq!(error(&bad), "has a part \"PLTE\", which is not read here");
    }
}
