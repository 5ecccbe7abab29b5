//! Blocks of consecutive elements along the last axis.

use rayon::prelude::*;

use crate::error::{Result, within};
use crate::memory::{CHUNK, PARALLEL};

/// How a tensor falls into blocks: the last block of a row may be shorter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocks {
    /// Elements of a row.
    row: usize,
    /// Elements of a block.
    size: usize,
    /// Blocks of a row.
    in_row: usize,
}

impl Blocks {
    pub(crate) fn new(shape: &[usize], size: usize) -> Result<Self> {
        let size = within("block", size, 1..=usize::MAX, "1 <= block")?;
        let elements: usize = shape.iter().product();
        // Rows that end with a block need not be told apart.
        let row = match shape.last() {
            Some(last) if last % size != 0 => *last,
            _ => elements,
        };
        let row = row.max(1);
        Ok(Self { row, size, in_row: row.div_ceil(size) })
    }

    /// The block of a position.
    #[inline(always)]
    pub(crate) fn of(self, i: usize) -> usize {
        i / self.row * self.in_row + i % self.row / self.size
    }

    /// `f(first position, block)` over all blocks.
    pub(crate) fn update(self, x: &mut [f32], f: impl Fn(usize, &mut [f32]) + Sync) {
        let task = |first: usize, x: &mut [f32]| {
            for (r, row) in x.chunks_mut(self.row).enumerate() {
                for (b, block) in row.chunks_mut(self.size).enumerate() {
                    f(first + r * self.row + b * self.size, block);
                }
            }
        };
        if x.len() < PARALLEL {
            return task(0, x);
        }
        // Whole rows, or where there is one row whole blocks.
        let unit = if self.in_row * self.size == self.row { self.size } else { self.row };
        let length = unit * (CHUNK / unit).max(1);
        x.par_chunks_mut(length).enumerate().for_each(|(i, x)| task(i * length, x));
    }

    /// `f(block)` of each block.
    pub(crate) fn map<T: Send>(self, x: &[f32], f: impl Fn(&[f32]) -> T + Sync + Send) -> Vec<T> {
        let rows = x.par_chunks(self.row).flat_map_iter(|row| row.chunks(self.size));
        match x.len() < PARALLEL {
            true => x.chunks(self.row).flat_map(|row| row.chunks(self.size)).map(f).collect(),
            false if self.in_row * self.size == self.row => x.par_chunks(self.size).with_min_len(64).map(f).collect(),
            false => rows.map(f).collect(),
        }
    }
}

/// `max |x|`; NaN if an element is NaN or infinite.
#[inline(always)]
pub(crate) fn amax(x: &[f32]) -> f32 {
    // Bits of magnitudes are ordered as the magnitudes are, NaN above all.
    let bits = x.iter().fold(0, |max, x| (x.to_bits() & 0x7fff_ffff).max(max));
    if bits >= 0x7f80_0000 { f32::NAN } else { f32::from_bits(bits) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_walk_sees_the_same_blocks() {
        for (shape, size, count) in [
            (vec![5, 7], 3, 15),
            (vec![5, 6], 3, 10),
            (vec![7], 3, 3),
            (vec![0, 4], 3, 0),
            (vec![4, 0], 3, 0),
            (vec![700, 101], 32, 2800),
            (vec![3, 1 << 16], 32, 3 << 11),
            (vec![(1 << 17) + 5], 32, (1 << 12) + 1),
        ] {
            let blocks = Blocks::new(&shape, size).unwrap();
            let elements = shape.iter().product();
            let mut x = vec![0.0; elements];
            blocks.update(&mut x, |first, block| {
                assert!(block.len() <= size);
                for (i, x) in block.iter_mut().enumerate() {
                    assert_eq!(blocks.of(first), blocks.of(first + i));
                    *x += blocks.of(first + i) as f32;
                }
            });
            assert!(x.iter().enumerate().all(|(i, x)| *x == blocks.of(i) as f32));
            let seen = blocks.map(&x, |block| block[0] as usize);
            assert_eq!(seen, (0..count).collect::<Vec<_>>(), "{shape:?}");
        }
        assert!(Blocks::new(&[4], 0).is_err());
    }

    #[test]
    fn the_largest_magnitude_shows_damage() {
        assert_eq!((amax(&[]), amax(&[-0.0, 2.0, -3.0])), (0.0, 3.0));
        assert!(amax(&[1.0, f32::NAN]).is_nan() && amax(&[f32::NEG_INFINITY]).is_nan());
    }
}
