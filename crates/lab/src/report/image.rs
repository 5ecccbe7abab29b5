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
    use super::*;

    fn decoded(address: &str) -> Png {
        let file = STANDARD.decode(address.strip_prefix("data:image/png;base64,").unwrap()).unwrap();
        Png::decode(&file).unwrap()
    }

    #[test]
    fn the_address_decodes_to_the_image() {
        let grey = Png { width: 3, channels: 1, samples: vec![255, 128, 0, 192, 224, 240] };
        assert_eq!(decoded(&png_address(&[0, 8, 16, 4, 2, 1], 3, 16)), grey);
        let colours = Png { width: 1, channels: 3, samples: vec![1, 2, 3, 4, 5, 6] };
        assert_eq!(decoded(&colour_address(&[[1, 2, 3], [4, 5, 6]], 1)), colours);
    }
}
