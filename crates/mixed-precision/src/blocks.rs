//! Blocks of consecutive elements along the last axis.

use std::hint::black_box;
use std::ops::Range;

use core_tensor::host::vectorised;
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
    #[cfg(test)]
    pub(crate) fn of(self, i: usize) -> usize {
        i / self.row * self.in_row + i % self.row / self.size
    }

    /// `f(block, positions)` for the parts of blocks among `length` positions from `first`.
    #[inline(always)]
    pub(crate) fn runs(self, first: usize, length: usize, mut f: impl FnMut(usize, Range<usize>)) {
        let (mut row, mut start) = (first / self.row, 0);
        let mut block = first % self.row / self.size;
        while start < length {
            let end = row * self.row + self.row.min((block + 1) * self.size);
            let run = start..length.min(end - first);
            start = run.end;
            f(row * self.in_row + block, run);
            block += 1;
            if block == self.in_row {
                (row, block) = (row + 1, 0);
            }
        }
    }

    /// `f(first position, block)` over all blocks, compiled for the vector unit and for blocks of 16 and 32.
    pub(crate) fn update(self, x: &mut [f32], f: impl Fn(usize, &mut [f32]) + Sync) {
        let task = |first: usize, x: &mut [f32]| {
            vectorised(
                #[inline(always)]
                || {
                    for (r, row) in x.chunks_mut(self.row).enumerate() {
                        let first = first + r * self.row;
                        match self.size {
                            16 => of_size::<16>(first, row, &f),
                            32 => of_size::<32>(first, row, &f),
                            size => row.chunks_mut(size).enumerate().for_each(
                                #[inline(always)]
                                |(b, block)| f(first + b * size, block),
                            ),
                        }
                    }
                },
            );
        };
        if x.len() < PARALLEL {
            return task(0, x);
        }
        let length = self.task();
        x.par_chunks_mut(length).enumerate().for_each(|(i, x)| task(i * length, x));
    }

    /// `f(block)` of each block.
    pub(crate) fn map<T: Send>(self, x: &[f32], f: impl Fn(&[f32]) -> T + Sync + Send) -> Vec<T> {
        let task = |x: &[f32]| {
            vectorised(
                #[inline(always)]
                || {
                    let mut found = Vec::with_capacity(x.len().div_ceil(self.row) * self.in_row.min(x.len()));
                    for row in x.chunks(self.row) {
                        match self.size {
                            16 => map_of_size::<16, T>(row, &f, &mut found),
                            32 => map_of_size::<32, T>(row, &f, &mut found),
                            size => row.chunks(size).for_each(|block| found.push(f(block))),
                        }
                    }
                    found
                },
            )
        };
        match x.len() < PARALLEL {
            true => task(x),
            false => x.par_chunks(self.task()).flat_map_iter(task).collect(),
        }
    }

    /// Elements of a task: whole rows, or where there is one row whole blocks.
    fn task(self) -> usize {
        let unit = if self.in_row * self.size == self.row { self.size } else { self.row };
        unit * (CHUNK / unit).max(1)
    }
}

#[inline(always)]
fn of_size<const SIZE: usize>(first: usize, row: &mut [f32], f: &impl Fn(usize, &mut [f32])) {
    let (blocks, rest) = row.as_chunks_mut::<SIZE>();
    let end = first + SIZE * blocks.len();
    for (b, block) in blocks.iter_mut().enumerate() {
        f(first + SIZE * b, block);
    }
    if !rest.is_empty() {
        f(end, rest);
    }
}

#[inline(always)]
fn map_of_size<const SIZE: usize, T>(row: &[f32], f: &impl Fn(&[f32]) -> T, found: &mut Vec<T>) {
    let (blocks, rest) = row.as_chunks::<SIZE>();
    for block in blocks {
        found.push(f(block));
    }
    if !rest.is_empty() {
        found.push(f(rest));
    }
}

/// `max |x|`; NaN if an element is NaN or infinite.
#[inline(always)]
pub(crate) fn amax(x: &[f32]) -> f32 {
    // Bits of magnitudes are ordered as the magnitudes are, NaN above all.
    let mut largest = 0;
    for x in x {
        largest = largest.max(x.to_bits() as i32 & i32::MAX);
    }
    // Keeps the compiler within the block: across blocks it would shuffle more than it computes.
    let largest = black_box(largest);
    if largest >= 0x7f80_0000 { f32::NAN } else { f32::from_bits(largest as u32) }
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
            for (first, length) in [(0, elements), (elements / 3, elements - elements / 3), (elements / 2, 1)] {
                let mut next = 0;
                blocks.runs(first, length.min(elements), |block, run| {
                    assert_eq!(run.start, next);
                    assert!((first + run.start..first + run.end).all(|i| blocks.of(i) == block) && !run.is_empty());
                    next = run.end;
                });
                assert_eq!(next, length.min(elements));
            }
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
