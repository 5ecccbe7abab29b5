//! Rounding a tensor to FP8, tile by tile.

use burn::tensor::Tensor;
use core_tensor::host::vectorised;
use rayon::prelude::*;

use super::recipe::Recipe;
use crate::error::Result;
use crate::format::{Codec, Format, mode};
use crate::memory::{self, CHUNK};

/// Row-major elements as `[outer, middle, inner]`, and tiles of `[tile_outer, tile_middle, 1]` of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tiles {
    middle: usize,
    inner: usize,
    tile_outer: usize,
    tile_middle: usize,
}

impl Tiles {
    /// Tiles whose inner extent is 1 or all.
    pub(crate) fn new(view: [usize; 3], tile: [usize; 3]) -> Self {
        let [_, mut middle, mut inner] = view.map(|n| n.max(1));
        let [tile_outer, mut tile_middle, tile_inner] = tile.map(|n| n.max(1));
        tile_middle = tile_middle.min(middle);
        if tile_inner >= inner {
            (middle, tile_middle, inner) = (middle * inner, tile_middle * inner, 1);
        }
        if inner == 1 && tile_middle == 1 {
            (middle, inner) = (1, middle);
        }
        Self { middle, inner, tile_outer, tile_middle }
    }

    /// Elements of a row, the scales of a row.
    fn row(self) -> (usize, usize) {
        (self.middle * self.inner, self.middle.div_ceil(self.tile_middle) * self.inner)
    }

    /// `f(elements, index of their scales, so many)` for the pieces of a row whose elements share one scale (so many = 1) or
    /// have one each.
    #[inline(always)]
    fn pieces(self, row: &mut [f32], mut f: impl FnMut(&mut [f32], usize)) {
        let step = if self.inner == 1 { self.tile_middle } else { self.inner };
        for (i, piece) in row.chunks_mut(step).enumerate() {
            let scale = if self.inner == 1 { i } else { i / self.tile_middle * self.inner };
            f(piece, scale);
        }
    }

    /// The largest magnitude of every tile: NaN are passed over, infinities are not.
    fn amax(self, x: &mut [f32]) -> Vec<f32> {
        let (row, scales) = self.row();
        let rows = x.len().div_ceil(row);
        let one = |rows: &mut [f32], amax: &mut [f32]| {
            vectorised(|| {
                for row in rows.chunks_mut(row) {
                    self.pieces(row, |piece, at| match self.inner {
                        1 => amax[at] = amax[at].max(largest(piece)),
                        _ => amax[at..].iter_mut().zip(piece).for_each(|(a, x)| *a = larger(*a, *x)),
                    });
                }
            });
        };
        let group = row * self.tile_outer.min(rows).max(1);
        if group >= x.len() {
            // One row of tiles: parts of it, joined.
            let part = row * (CHUNK / row).max(1);
            let parts: Vec<Vec<f32>> = x
                .par_chunks_mut(part)
                .map(|x| {
                    let mut amax = vec![0.0; scales];
                    one(x, &mut amax);
                    amax
                })
                .collect();
            let mut amax = vec![0f32; scales];
            parts.iter().flat_map(|part| part.iter().enumerate()).for_each(|(i, x)| amax[i] = amax[i].max(*x));
            return amax;
        }
        let mut amax = vec![0.0; x.len().div_ceil(group) * scales];
        let least = (CHUNK / group).max(1);
        let groups = x.par_chunks_mut(group).zip(amax.par_chunks_mut(scales)).with_min_len(least);
        groups.for_each(|(x, amax)| one(x, amax));
        amax
    }

    /// Rounds every element by the scale of its tile.
    fn round(self, x: &mut [f32], scales: &[f32], codec: Codec) {
        let (row, in_row) = self.row();
        x.par_chunks_mut(row).enumerate().with_min_len((CHUNK / row).max(1)).for_each(|(r, x)| {
            let scales = &scales[r / self.tile_outer * in_row..][..in_row];
            vectorised(|| {
                self.pieces(x, |piece, at| match self.inner {
                    1 => {
                        let (scale, inverse) = (scales[at], 1.0 / scales[at]);
                        piece.iter_mut().for_each(|x| *x = nearest(*x, scale, inverse, codec));
                    }
                    _ => {
                        let scales = scales[at..].iter();
                        piece.iter_mut().zip(scales).for_each(|(x, s)| *x = nearest(*x, *s, 1.0 / *s, codec));
                    }
                });
            });
        });
    }
}

/// `x` as the nearest number of the format divided by the scale; NaN for what is not finite.
#[inline(always)]
fn nearest(x: f32, scale: f32, inverse: f32, codec: Codec) -> f32 {
    let rounded = codec.quantize::<{ mode::EVEN }>(x * scale, 0, true) * inverse;
    // NaN for what is not finite, 0 else.
    rounded + x * 0.0
}

/// The larger magnitude, NaN being none.
#[inline(always)]
fn larger(amax: f32, x: f32) -> f32 {
    let x = x.abs();
    if x > amax { x } else { amax }
}

/// The largest magnitude, NaN being none.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [0.0; LANES];
    let mut groups = x.chunks_exact(LANES);
    for group in &mut groups {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], group[i]);
        }
    }
    groups.remainder().iter().chain(&lanes).fold(0.0, |amax, x| larger(amax, *x))
}

/// Every tile rounded by a scale of its own.
pub(crate) fn round_tiles<const D: usize>(
    x: Tensor<D>,
    recipe: Recipe,
    format: Format,
    tiles: Tiles,
) -> Result<Tensor<D>> {
    let (codec, max) = (format.codec(), format.max());
    let (x, ()) = memory::update(x.into_dispatch(), format, |x| {
        let scales: Vec<f32> = tiles.amax(x).into_iter().map(|amax| recipe.scale_of(amax, max, 1.0)).collect();
        tiles.round(x, &scales, codec);
    })?;
    Ok(Tensor::from_dispatch(x))
}

/// The tensor rounded by a scale that is known, and its amax: one pass.
pub(crate) fn round_whole<const D: usize>(x: Tensor<D>, format: Format, scale: f32) -> Result<(Tensor<D>, f32)> {
    let (codec, inverse) = (format.codec(), 1.0 / scale);
    let (x, amax) = memory::update(x.into_dispatch(), format, |x| {
        let parts = x.par_chunks_mut(CHUNK).map(|x| {
            vectorised(|| {
                let amax = largest(x);
                x.iter_mut().for_each(|x| *x = nearest(*x, scale, inverse, codec));
                amax
            })
        });
        parts.reduce(|| 0.0, f32::max)
    })?;
    Ok((Tensor::from_dispatch(x), amax))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Overflow, Rounding, sqnr};
    use burn::tensor::{Device, TensorData};
    use core_tensor::testing::{host_devices, property};
    use proptest::prelude::*;

    fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
        x.into_data().iter::<f32>().collect()
    }

    /// The definition, element by element.
    fn slowly(
        x: &[f32],
        [outer, middle, inner]: [usize; 3],
        tile: [usize; 3],
        recipe: Recipe,
        format: Format,
    ) -> Vec<f32> {
        let key = |i: usize| {
            let (o, m, n) = (i / (middle * inner), i / inner % middle, i % inner);
            (o / tile[0], m / tile[1], n / tile[2])
        };
        assert_eq!(x.len(), outer * middle * inner);
        (0..x.len())
            .map(|i| {
                let mates = (0..x.len()).filter(|j| key(*j) == key(i));
                let amax = mates.fold(0f32, |amax, j| amax.max(x[j].abs()));
                let scale = recipe.scale(amax, format, 1.0);
                let q = format.quantize(x[i] * scale, Rounding::NearestEven, Overflow::Saturate);
                if x[i].is_finite() { q * (1.0 / scale) } else { f32::NAN }
            })
            .collect()
    }

    #[test]
    fn tiles_are_those_of_the_definition() {
        let number = prop_oneof![20 => -1e3f32..1e3, 2 => -1e-3f32..1e-3, 1 => Just(0.0), 1 => Just(f32::NAN), 1 => Just(f32::INFINITY)];
        let view = (1usize..6, 1usize..7, 1usize..4);
        let data = view.prop_flat_map(move |(a, b, c)| {
            (Just([a, b, c]), proptest::collection::vec(number.clone(), a * b * c), 1usize..4, 0usize..2, any::<bool>())
        });
        property(120, data, |(view, data, size, sum, weight)| {
            for device in host_devices() {
                let x = Tensor::<3>::from_data(TensorData::new(data.clone(), view), &device);
                let block = Recipe::per_block().block(size).unwrap();
                for recipe in [Recipe::current(), Recipe::per_row(), block, block.power_of_two_scales(true)] {
                    for format in [Format::E4M3FN, Format::E5M2] {
                        let tile = recipe.tile(view, sum, weight);
                        let got = round_tiles(x.clone(), recipe, format, Tiles::new(view, tile)).unwrap();
                        let want = slowly(&data, view, tile, recipe, format);
                        let same = |(a, b): (f32, &f32)| a == *b || (a.is_nan() && b.is_nan());
                        assert!(values(got).into_iter().zip(&want).all(same), "{recipe:?} {tile:?}");
                    }
                }
            }
        });
    }

    #[test]
    fn large_tensors_take_the_same_way_in_parallel() {
        let (rows, columns) = (300, 257);
        let data: Vec<f32> = (0..rows * columns).map(|i| ((i * 7919) % 2003) as f32 - 1000.0).collect();
        let x = Tensor::<2>::from_data(TensorData::new(data.clone(), [rows, columns]), &Device::flex());
        let view = [rows, columns, 1];
        for tile in [[1, columns, 1], [rows, 1, 1], [128, 128, 1], [1, 128, 1], [128, 1, 1], view] {
            let recipe = Recipe::current();
            let got = values(round_tiles(x.clone(), recipe, Format::E4M3FN, Tiles::new(view, tile)).unwrap());
            let key = |i: usize| (i / columns / tile[0], i % columns / tile[1]);
            let mut amax = std::collections::HashMap::new();
            for (i, x) in data.iter().enumerate() {
                let entry = amax.entry(key(i)).or_insert(0f32);
                *entry = entry.max(x.abs());
            }
            for (i, x) in data.iter().enumerate() {
                let scale = recipe.scale(amax[&key(i)], Format::E4M3FN, 1.0);
                let q = Format::E4M3FN.quantize(x * scale, Rounding::NearestEven, Overflow::Saturate);
                assert_eq!(got[i], q * (1.0 / scale), "{tile:?} {i}");
            }
        }
    }

    #[test]
    fn powers_of_two_are_exact() {
        let data: Vec<f32> = (-6..=8).flat_map(|e| [2f32.powi(e), -2f32.powi(e)]).collect();
        let x = Tensor::<2>::from_data(TensorData::new(data.clone(), [2, 15]), &Device::flex());
        for recipe in [Recipe::current(), Recipe::per_row(), Recipe::per_block()] {
            let recipe = recipe.power_of_two_scales(true);
            let tiles = Tiles::new([2, 15, 1], recipe.tile([2, 15, 1], 1, false));
            assert_eq!(values(round_tiles(x.clone(), recipe, Format::E4M3FN, tiles).unwrap()), data);
        }
        let (y, amax) = round_whole(x, Format::E4M3FN, 1.0).unwrap();
        assert_eq!((values(y), amax), (data, 256.0));
    }

    #[test]
    fn one_pass_saturates_measures_and_shows_damage() {
        let x = Tensor::<1>::from_data([3.0, -900.0, f32::NAN, 0.3], &Device::flex());
        let (y, amax) = round_whole(x, Format::E4M3FN, 1.0).unwrap();
        let y = values(y);
        assert_eq!((y[0], y[1], y[3], amax), (3.0, -448.0, 0.3125, 900.0));
        assert!(y[2].is_nan());
        let x = Tensor::<1>::from_data([f32::NEG_INFINITY, 1.0], &Device::flex());
        let (y, amax) = round_whole(x.clone(), Format::E5M2, 2.0).unwrap();
        assert_eq!((values(y.clone())[0].is_nan(), values(y)[1], amax), (true, 1.0, f32::INFINITY));
        let (y, amax) = round_whole(x.slice_dim(0, 0..0), Format::E5M2, 2.0).unwrap();
        assert_eq!((values(y).len(), amax), (0, 0.0));
    }

    #[test]
    fn finer_scales_are_no_louder() {
        // Rows of very different sizes, as activations have.
        let rows = (-12i32..12)
            .prop_flat_map(|_| proptest::collection::vec((-12i32..12, proptest::collection::vec(-1f32..1.0, 64)), 8));
        property(60, rows, |rows| {
            let data: Vec<f32> = rows.iter().flat_map(|(e, row)| row.iter().map(|x| x * 2f32.powi(*e))).collect();
            let view = [8, 64, 1];
            let x = Tensor::<2>::from_data(TensorData::new(data, [8, 64]), &Device::flex());
            let quality = |recipe: Recipe| {
                // Scales of powers of two leave the grid of normal numbers where it is: only the range differs.
                let recipe = recipe.power_of_two_scales(true);
                let tiles = Tiles::new(view, recipe.tile(view, 1, false));
                sqnr(&x, &round_tiles(x.clone(), recipe, Format::E4M3FN, tiles).unwrap()).unwrap()
            };
            let (whole, row) = (quality(Recipe::current()), quality(Recipe::per_row()));
            let block = quality(Recipe::per_block().block(16).unwrap());
            assert!(row >= whole - 1e-9 && block >= row - 1e-9, "{whole} {row} {block}");
        });
    }
}
