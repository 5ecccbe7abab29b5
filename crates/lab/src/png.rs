//! PNG files: grey or RGB, of 8 bits a sample when written; whatever the format knows when read.

use std::io::Cursor;
use std::path::Path;

use png::{BitDepth, ColorType, Compression, Decoder, DecodingError, Encoder, Transformations};

use crate::error::{Error, Result};

/// No picture here has more bytes once unpacked.
const LARGEST: usize = 64 << 20;

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
        assert!(self.samples.len().is_multiple_of(self.width * self.channels), "whole rows");
        let mut file = Vec::new();
        let mut encoder = Encoder::new(&mut file, self.width as u32, self.height() as u32);
        encoder.set_color(match self.channels {
            1 => ColorType::Grayscale,
            3 => ColorType::Rgb,
            other => panic!("{other} channels"),
        });
        encoder.set_depth(BitDepth::Eight);
        encoder.set_compression(Compression::High);
        let mut writer = encoder.write_header().expect("writing into memory");
        writer.write_image_data(&self.samples).expect("as many samples as the header says");
        writer.finish().expect("writing into memory");
        file
    }

    /// The picture in a file, as [`decode`](Self::decode).
    ///
    /// # Errors
    /// [`Error::Read`], and [`Error::Data`] for what cannot be decoded.
    pub fn read(path: &Path) -> Result<Self> {
        let file = std::fs::read(path).map_err(Error::read(path))?;
        Self::decode(&file).map_err(|problem| Error::Data { origin: path.display().to_string(), problem })
    }

    /// The picture in the bytes of a file. 16 bits become 8, palettes their colours, and transparency is not looked at.
    ///
    /// # Errors
    /// What is wrong with them, in words.
    pub fn decode(file: &[u8]) -> Result<Self, String> {
        let bad = |error: DecodingError| format!("is no PNG that can be read: {error}");
        let mut decoder = Decoder::new(Cursor::new(file));
        decoder.set_transformations(Transformations::normalize_to_color8());
        let mut reader = decoder.read_info().map_err(bad)?;
        let bytes = reader.output_buffer_size().filter(|bytes| *bytes <= LARGEST);
        let mut samples = vec![0; bytes.ok_or_else(|| format!("has more than {} MiB of pixels", LARGEST >> 20))?];
        let info = reader.next_frame(&mut samples).map_err(bad)?;
        samples.truncate(info.buffer_size());
        let (read, channels) = match info.color_type {
            ColorType::Grayscale => (1, 1),
            ColorType::GrayscaleAlpha => (2, 1),
            ColorType::Rgb => (3, 3),
            ColorType::Rgba => (4, 3),
            ColorType::Indexed => return Err("has a palette that cannot be resolved".into()),
        };
        if read > channels {
            samples = samples.chunks(read).flat_map(|pixel| pixel[..channels].iter().copied()).collect();
        }
        Ok(Self { width: info.width as usize, channels, samples })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_tensor::Random;

    fn file(width: u32, height: u32, colour: ColorType, depth: BitDepth, data: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = Encoder::new(&mut file, width, height);
        encoder.set_color(colour);
        encoder.set_depth(depth);
        if colour == ColorType::Indexed {
            encoder.set_palette(vec![1, 2, 3, 4, 5, 6]);
        }
        encoder.write_header().unwrap().write_image_data(data).unwrap();
        file
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut random = Random::new(1);
        for (width, height, channels) in [(1, 1, 1), (8, 8, 1), (7, 5, 3), (28, 28, 1), (3, 9, 3)] {
            let samples = (0..width * height * channels).map(|_| random.below(256) as u8).collect();
            let png = Png { width, channels, samples };
            assert_eq!(Png::decode(&png.encode()).unwrap(), png);
            assert_eq!(png.height(), height);
        }
    }

    #[test]
    fn other_forms_become_grey_or_colour_of_eight_bits() {
        let decode = |colour, depth, data: &[u8]| Png::decode(&file(2, 1, colour, depth, data)).unwrap();
        let of = |channels, samples: &[u8]| Png { width: 2, channels, samples: samples.to_vec() };
        assert_eq!(decode(ColorType::Grayscale, BitDepth::Sixteen, &[9, 200, 8, 1]), of(1, &[9, 8]));
        assert_eq!(decode(ColorType::GrayscaleAlpha, BitDepth::Eight, &[9, 0, 8, 255]), of(1, &[9, 8]));
        assert_eq!(decode(ColorType::Rgba, BitDepth::Eight, &[1, 2, 3, 0, 4, 5, 6, 9]), of(3, &[1, 2, 3, 4, 5, 6]));
        assert_eq!(decode(ColorType::Indexed, BitDepth::Eight, &[1, 0]), of(3, &[4, 5, 6, 1, 2, 3]));
    }

    #[test]
    fn what_is_no_such_file_is_said() {
        let whole = file(4, 3, ColorType::Grayscale, BitDepth::Eight, &[7; 12]);
        let mut flipped = whole.clone();
        flipped[45] ^= 1;
        let mut large = whole.clone();
        large[16..20].copy_from_slice(&[0, 1, 0, 0]);
        for bad in [&b"GIF89a"[..], &whole[..20], &whole[..whole.len() - 20], &flipped, &large, &[]] {
            let said = Png::decode(bad).unwrap_err();
            assert!(said.starts_with("is no PNG that can be read: ") || said.starts_with("has more than"), "{said}");
        }
    }
}
