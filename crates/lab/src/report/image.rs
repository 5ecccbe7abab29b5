//! Images inside a page: PNG as `data:` addresses.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::png::Png;

/// A grey image as the address of a PNG of `width` columns, ink (`ink` in `pixels`) black on white paper (0).
///
/// Panics where `pixels` are not whole rows: that is a bug of the caller.
pub fn png_address(pixels: &[u8], width: usize, ink: u8) -> String {
    let grey = |pixel: &u8| 255 - (u32::from(*pixel) * 255 / u32::from(ink.max(1))).min(255) as u8;
    address(&Png { width, channels: 1, samples: pixels.iter().map(grey).collect() })
}

/// A coloured image as the address of a PNG of `width` columns.
///
/// Panics where `pixels` are not whole rows: that is a bug of the caller.
pub fn colour_address(pixels: &[[u8; 3]], width: usize) -> String {
    address(&Png { width, channels: 3, samples: pixels.as_flattened().to_vec() })
}

fn address(png: &Png) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(png.encode()))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::ZlibDecoder;

    use super::*;

    #[test]
    fn the_address_decodes_to_the_image() {
        let address = png_address(&[0, 8, 16, 4, 2, 1], 3, 16);
        let file = STANDARD.decode(address.strip_prefix("data:image/png;base64,").unwrap()).unwrap();
        assert_eq!(file[..8], *b"\x89PNG\r\n\x1a\n");
        assert_eq!(file[8..33], *b"\0\0\0\x0dIHDR\0\0\0\x03\0\0\0\x02\x08\0\0\0\0\xb8\x1f\x39\xc6");
        assert_eq!(file[file.len() - 12..], *b"\0\0\0\0IEND\xae\x42\x60\x82");
        let length = u32::from_be_bytes(file[33..37].try_into().unwrap()) as usize;
        assert_eq!(file[37..41], *b"IDAT");
        let mut rows = Vec::new();
        ZlibDecoder::new(&file[41..41 + length]).read_to_end(&mut rows).unwrap();
        assert_eq!(rows, [0, 255, 128, 0, 0, 192, 224, 240]);
        assert_eq!(file.len(), 41 + length + 4 + 12);
    }

    #[test]
    fn colours_take_three_samples() {
        let address = colour_address(&[[1, 2, 3], [4, 5, 6]], 1);
        let file = STANDARD.decode(address.strip_prefix("data:image/png;base64,").unwrap()).unwrap();
        assert_eq!(file[16..29], *b"\0\0\0\x01\0\0\0\x02\x08\x02\0\0\0");
        let length = u32::from_be_bytes(file[33..37].try_into().unwrap()) as usize;
        let mut rows = Vec::new();
        ZlibDecoder::new(&file[41..41 + length]).read_to_end(&mut rows).unwrap();
        assert_eq!(rows, [0, 1, 2, 3, 0, 4, 5, 6]);
    }
}
