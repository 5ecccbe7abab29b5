//! Passes over many rows at once in host memory.

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Dispatch, DispatchTensor, TensorMetadata};
use burn::tensor::{DType, TensorData, bf16, f16};
use core_tensor::host::{self, Slice, vectorised};
use core_tensor::{LeafName, Result, Tree};
use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

use crate::solvers::Matrix;

/// Elements of a row that one task handles.
const CHUNK: usize = 1 << 14;
/// Numbers of all rows together that are looked at at once: as `f64` they stay in the first-level cache.
const BLOCK: usize = 1 << 11;
/// At least so many of each row, for every visit of a pair has its costs; many rows then take the second-level cache.
const VISIT: usize = 128;
/// Independent sums of a pair of rows.
const LANES: usize = 8;
/// Rows of a tile of pairs, whose sums stay in registers.
const TILE: usize = 2;

/// A function of blocks: the rows' numbers one row after the other (it may change them), zeros to write over, and the
/// position of the first number
/// among all elements of the tree.
type OfBlocks<'a> = dyn Fn(&mut [f64], &mut [f64], u64) + Sync + 'a;

/// All inner products; `None` unless every leaf is on the host. Each row is read once.
pub fn products(rows: &[&Tree]) -> Option<Matrix> {
    let m = rows.len();
    let mut sums = vec![0.0; m * m];
    for leaf in 0..rows[0].len() {
        let leaves: Vec<&DispatchTensor> = rows.iter().map(|row| row.leaf(leaf).1).collect();
        let n = leaves[0].shape().num_elements();
        let part = with_slices(&leaves, Vec::new(), &|slices| match n <= CHUNK {
            true => chunk_products(slices, 0..n),
            false => {
                let chunks = (0..n.div_ceil(CHUNK)).into_par_iter();
                let parts: Vec<Vec<f64>> =
                    chunks.map(|c| chunk_products(slices, c * CHUNK..n.min((c + 1) * CHUNK))).collect();
                // In order, whatever the number of threads.
                parts.into_iter().reduce(|a, b| a.iter().zip(b).map(|(a, b)| a + b).collect()).unwrap_or_default()
            }
        })?;
        sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    Some(Matrix::symmetric(m, |i, j| sums[i * m + j]))
}

/// `Σ w·row` in the dtypes of the first row; `None` unless every leaf is on the host.
pub fn combine(rows: &[(&Tree, f64)]) -> Option<Result<Tree>> {
    let trees: Vec<&Tree> = rows.iter().map(|(row, _)| *row).collect();
    let weights: Vec<f64> = rows.iter().map(|(_, weight)| *weight).collect();
    try_blend(&trees, &|block, out, _| {
        vectorised(|| {
            for (row, weight) in block.chunks_exact(out.len()).zip(&weights) {
                out.iter_mut().zip(row).for_each(|(out, x)| *out += weight * x);
            }
        });
    })
}

/// A tree whose elements are a function of the rows' elements at the same place. `None` unless every leaf is on the
/// host.
fn try_blend(rows: &[&Tree], f: &OfBlocks<'_>) -> Option<Result<Tree>> {
    let mut leaves: Vec<(LeafName, DispatchTensor)> = Vec::new();
    let mut first = 0;
    for (leaf, name) in rows[0].names().iter().enumerate() {
        let inputs: Vec<&DispatchTensor> = rows.iter().map(|row| row.leaf(leaf).1).collect();
        let like = inputs[0];
        let n = like.shape().num_elements();
        let data = with_slices(&inputs, Vec::new(), &|slices| match like.dtype() {
            DType::F64 => TensorData::new(blend_leaf(slices, n, first, f, |x| x), like.shape()),
            DType::F16 => TensorData::new(blend_leaf(slices, n, first, f, f16::from_f64), like.shape()),
            DType::BF16 => TensorData::new(blend_leaf(slices, n, first, f, bf16::from_f64), like.shape()),
            _ => TensorData::new(blend_leaf(slices, n, first, f, |x| x as f32), like.shape()),
        })?;
        leaves.push((name.clone(), Dispatch::float_from_data(data, &like.device())));
        first += n as u64;
    }
    Some(Tree::from_leaves(leaves))
}

/// The same for rows anywhere: what is on a device goes through the host.
pub fn blend(rows: &[&Tree], f: &OfBlocks<'_>) -> Result<Tree> {
    if let Some(tree) = try_blend(rows, f) {
        return tree;
    }
    let data: Vec<_> = rows.iter().map(|row| row.to_data()).collect();
    let mut first = 0;
    let leaves = rows[0].iter().enumerate().map(|(leaf, (name, like))| {
        let values: Vec<Vec<f64>> = data.iter().map(|row| row[leaf].1.iter::<f64>().collect()).collect();
        let slices: Vec<Slice<'_>> = values.iter().map(|x| Slice::F64(x)).collect();
        let n = values[0].len();
        let blended = blend_leaf(&slices, n, first, f, |x| x);
        first += n as u64;
        let data = TensorData::new(blended, like.shape()).convert_dtype(like.dtype());
        (name.clone(), Dispatch::float_from_data(data, &like.device()))
    });
    Tree::from_leaves(leaves.collect::<Vec<_>>())
}

/// [`blend`] element by element: `f(column, place)` for the numbers of all rows at one place.
pub fn elementwise(rows: &[&Tree], f: &(dyn Fn(&[f64], u64) -> f64 + Sync)) -> Result<Tree> {
    let m = rows.len();
    blend(rows, &|block, out, first| {
        let (n, mut column) = (out.len(), vec![0.0; m]);
        for (k, out) in out.iter_mut().enumerate() {
            (0..m).for_each(|i| column[i] = block[i * n + k]);
            *out = f(&column, first + k as u64);
        }
    })
}

/// Runs `f` with the elements of all tensors; `None` if one is not on the host.
fn with_slices<'a, R>(
    rest: &[&DispatchTensor],
    mut slices: Vec<Slice<'a>>,
    f: &dyn Fn(&[Slice<'_>]) -> R,
) -> Option<R> {
    match rest.split_first() {
        None => Some(f(&slices)),
        Some((first, rest)) => host::read(first, |slice| {
            // The shorter lifetime of the new slice is that of all.
            let mut all: Vec<Slice<'_>> = std::mem::take(&mut slices);
            all.push(slice);
            with_slices(rest, all, f)
        })
        .flatten(),
    }
}

fn chunk_products(slices: &[Slice<'_>], range: std::ops::Range<usize>) -> Vec<f64> {
    let m = slices.len();
    // Rows of zeros make the last tile whole.
    let rows = m.next_multiple_of(TILE);
    let length = (BLOCK / rows).next_multiple_of(LANES).max(VISIT);
    let mut block = vec![0.0; rows * length];
    let mut sums = vec![0.0; m * m];
    let mut start = range.start;
    while start < range.end {
        let n = length.min(range.end - start);
        if n < length {
            block.fill(0.0);
        }
        Arch::new().dispatch(BlockProducts { slices, start, n, block: &mut block, sums: &mut sums });
        start += n;
    }
    sums
}

/// Adds the products of `n` elements of all rows. Not a closure: those are inlined only if they are short, and what is
/// not inlined is
/// not compiled for the vector unit.
struct BlockProducts<'a, 'b> {
    slices: &'a [Slice<'b>],
    start: usize,
    n: usize,
    block: &'a mut [f64],
    sums: &'a mut [f64],
}

impl NullaryFnOnce for BlockProducts<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { slices, start, n, block, sums } = self;
        let m = slices.len();
        let rows = m.next_multiple_of(TILE);
        let length = block.len() / rows;
        for (slice, row) in slices.iter().zip(block.chunks_exact_mut(length)) {
            widen(slice, start, &mut row[..n]);
        }
        for i in (0..rows).step_by(TILE) {
            for j in (i..rows).step_by(TILE) {
                let x = [row(block, i, length), row(block, i + 1, length)];
                let tile = tile_products(x, [row(block, j, length), row(block, j + 1, length)]);
                for (a, line) in tile.iter().enumerate() {
                    for (b, product) in line.iter().enumerate() {
                        if i + a < m && j + b < m {
                            sums[(i + a) * m + j + b] += product;
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn row(block: &[f64], k: usize, length: usize) -> &[[f64; LANES]] {
    block[k * length..(k + 1) * length].as_chunks::<LANES>().0
}

/// The products of each of `x` with each of `y`.
#[inline(always)]
fn tile_products(x: [&[[f64; LANES]]; TILE], y: [&[[f64; LANES]]; TILE]) -> [[f64; TILE]; TILE] {
    let mut lanes = [[[0.0; LANES]; TILE]; TILE];
    let length = x[0].len();
    // One length for all, so that the loop has no bounds to check.
    let x = [&x[0][..length], &x[1][..length]];
    let y = [&y[0][..length], &y[1][..length]];
    for step in 0..length {
        for a in 0..TILE {
            for b in 0..TILE {
                for k in 0..LANES {
                    lanes[a][b][k] += x[a][step][k] * y[b][step][k];
                }
            }
        }
    }
    lanes.map(|line| line.map(|lane| lane.iter().sum()))
}

fn blend_leaf<E: Copy + Default + Send>(
    slices: &[Slice<'_>],
    n: usize,
    first: u64,
    f: &OfBlocks<'_>,
    narrow: impl Fn(f64) -> E + Sync,
) -> Vec<E> {
    let length = (BLOCK / slices.len()).max(VISIT);
    let mut out = vec![E::default(); n];
    let work = |(chunk, out): (usize, &mut [E])| {
        let (mut block, mut sums) = (vec![0.0; slices.len() * length], vec![0.0; length]);
        for (k, out) in out.chunks_mut(length).enumerate() {
            let (start, n) = (chunk * CHUNK + k * length, out.len());
            vectorised(|| {
                for (slice, row) in slices.iter().zip(block.chunks_exact_mut(n)) {
                    widen(slice, start, row);
                }
                sums.fill(0.0);
            });
            f(&mut block[..slices.len() * n], &mut sums[..n], first + start as u64);
            vectorised(|| out.iter_mut().zip(&sums).for_each(|(out, x)| *out = narrow(*x)));
        }
    };
    match n <= CHUNK {
        true => work((0, &mut out)),
        false => out.par_chunks_mut(CHUNK).enumerate().for_each(work),
    }
    out
}

/// The elements from `start` as `f64`.
#[inline(always)]
fn widen(slice: &Slice<'_>, start: usize, out: &mut [f64]) {
    let range = start..start + out.len();
    match slice {
        Slice::F64(x) => out.copy_from_slice(&x[range]),
        Slice::F32(x) => out.iter_mut().zip(&x[range]).for_each(|(out, x)| *out = f64::from(*x)),
        Slice::F16(x) => out.iter_mut().zip(&x[range]).for_each(|(out, x)| *out = x.to_f64()),
        Slice::BF16(x) => out.iter_mut().zip(&x[range]).for_each(|(out, x)| *out = x.to_f64()),
    }
}
