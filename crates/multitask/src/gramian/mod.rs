//! The matrix of inner products of the tasks' gradients.

mod device;
mod host;

pub(crate) use host::{blend, elementwise};

use core_tensor::{Result as CoreResult, Tree};

use crate::solvers::{Matrix, eigen};
use crate::{Error, Result};

/// The inner products `⟨g_i, g_j⟩` of `m` gradients, `G = JJᵀ`, in `f64`.
///
/// Gradients that are not finite take no part: they are left out of the matrix and named by [`dropped`](Self::dropped).
/// The others are divided by one power of two, `2^exponent`, that brings the largest norm between 1 and 2, so that
/// gradients of `1e200` or `1e-200` lose nothing. `G` itself is `4^exponent` times [`products`](Self::products).
///
/// Cost on the host: one pass over each row, in blocks that all pairs share (`m` reads of memory, not `m²`), in
/// parallel,
/// accumulated in `f64` in an order that does not depend on threads. On a GPU a matrix product a leaf, two host
/// synchronisations.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::Tree;
/// use multitask::Gramian;
///
/// let row = |x: [f32; 3]| Tree::empty().push("w", Tensor::<1>::from_data(x, &Device::flex()));
/// let gramian = Gramian::of(&[row([-4.0, 1.0, 1.0])?, row([6.0, 1.0, 1.0])?, row([f32::NAN, 0.0, 0.0])?])?;
/// assert_eq!((gramian.size(), gramian.dropped()), (2, vec![2]));
/// assert_eq!(gramian.norm(0), 18f64.sqrt());
/// assert!(gramian.cosine(0, 1) < -0.84);
/// # Ok::<(), multitask::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Gramian {
    /// Of the rows kept, over `2^exponent`.
    products: Matrix,
    exponent: i32,
    /// Positions of the rows kept.
    tasks: Vec<usize>,
    total: usize,
}

impl Gramian {
    /// The inner products of these rows.
    ///
    /// # Errors
    /// [`Error::NoTasks`] without rows, [`core_tensor::Error::Structure`] or `Shape` if rows differ in names or shapes.
    pub fn of(rows: &[Tree]) -> Result<Self> {
        let Some((first, rest)) = rows.split_first() else { return Err(Error::NoTasks) };
        rest.iter().try_for_each(|row| first.same_structure(row))?;
        let refs: Vec<&Tree> = rows.iter().collect();
        let Some(products) = host::products(&refs) else {
            return Ok(device::gramian(rows));
        };
        // Squares of f64 gradients may leave the range; those of all other dtypes do not.
        let odd = |x: f64| !(x > 1e-200 && x < 1e200);
        let odd: Vec<usize> = (0..rows.len()).filter(|i| odd(products[(*i, *i)])).collect();
        let mut exponents = vec![0; rows.len()];
        let mut kept = vec![true; rows.len()];
        for i in odd {
            let largest = rows[i].norm_inf().value();
            kept[i] = largest.is_finite();
            exponents[i] = if kept[i] && largest > 0.0 { exponent_of(largest) } else { 0 };
        }
        let products = match exponents.iter().any(|e| *e != 0) {
            false => products,
            true => {
                let scaled: Vec<Tree> = rows.iter().zip(&exponents).map(|(row, e)| scaled(row, *e)).collect();
                let refs: Vec<&Tree> = scaled.iter().collect();
                host::products(&refs).unwrap_or(products)
            }
        };
        Ok(Self::scaled_rows(&products, &exponents, &kept))
    }

    /// A Gramian from numbers: `G` itself. Rows whose products are not finite are dropped.
    ///
    /// # Errors
    /// [`Error::NoTasks`] if the matrix has no rows.
    pub fn from_products(g: &Matrix) -> Result<Self> {
        if g.size() == 0 {
            return Err(Error::NoTasks);
        }
        let mut kept: Vec<bool> = g.diagonal().iter().map(|x| x.is_finite()).collect();
        for i in 0..g.size() {
            kept[i] = (0..g.size()).all(|j| !kept[j] || g[(i, j)].is_finite()) && kept[i];
        }
        Ok(Self::scaled_rows(g, &vec![0; g.size()], &kept))
    }

    /// From the products of rows over `2^exponents[i]`.
    fn scaled_rows(products: &Matrix, exponents: &[i32], kept: &[bool]) -> Self {
        let tasks: Vec<usize> = (0..kept.len()).filter(|i| kept[*i]).collect();
        let sizes = tasks.iter().filter(|i| products[(**i, **i)] > 0.0);
        let sizes = sizes.map(|i| exponents[*i] + exponent_of(products[(*i, *i)].sqrt()));
        let exponent = sizes.max().unwrap_or(0);
        let entry = |i: usize, j: usize| {
            let (i, j) = (tasks[i], tasks[j]);
            power(power(products[(i, j)], exponents[i] - exponent), exponents[j] - exponent)
        };
        let products = Matrix::symmetric(tasks.len(), entry);
        Self { products, exponent, tasks, total: kept.len() }
    }

    /// Number of finite rows, the size of [`products`](Self::products).
    pub fn size(&self) -> usize {
        self.tasks.len()
    }

    /// Number of all rows.
    pub fn total(&self) -> usize {
        self.total
    }

    /// The tasks the rows of [`products`](Self::products) belong to.
    pub fn tasks(&self) -> &[usize] {
        &self.tasks
    }

    /// The tasks whose gradients are not finite.
    pub fn dropped(&self) -> Vec<usize> {
        (0..self.total).filter(|task| !self.tasks.contains(task)).collect()
    }

    /// The inner products of the finite rows, each row over `2^`[`exponent`](Self::exponent).
    pub fn products(&self) -> &Matrix {
        &self.products
    }

    /// The common power of two the rows were divided by.
    pub fn exponent(&self) -> i32 {
        self.exponent
    }

    /// `x · 2^(k·exponent)`: back to the scale of the gradients' `k`-th power.
    pub(crate) fn unscaled(&self, x: f64, k: i32) -> f64 {
        power(x, k * self.exponent)
    }

    /// The norm of finite row `i`.
    pub fn norm(&self, i: usize) -> f64 {
        self.unscaled(self.products[(i, i)].max(0.0).sqrt(), 1)
    }

    /// The cosine between finite rows `i` and `j`; 0 where one is zero.
    pub fn cosine(&self, i: usize, j: usize) -> f64 {
        let norms = self.products[(i, i)].sqrt() * self.products[(j, j)].sqrt();
        match norms > 0.0 {
            true => (self.products[(i, j)] / norms).clamp(-1.0, 1.0),
            false => 0.0,
        }
    }

    /// Largest over smallest eigenvalue, infinite if the rows are dependent. Costs `O(m³)`.
    pub fn condition(&self) -> f64 {
        let eigen = eigen(&self.products);
        match eigen.rank() < self.size() {
            true => f64::INFINITY,
            false => eigen.condition(),
        }
    }

    /// `G` itself, of all rows and line by line: NaN where a row was dropped.
    pub(crate) fn entries(&self) -> Vec<f64> {
        let mut entries = vec![f64::NAN; self.total * self.total];
        for (i, one) in self.tasks.iter().enumerate() {
            for (j, other) in self.tasks.iter().enumerate() {
                entries[one * self.total + other] = self.unscaled(self.products[(i, j)], 2);
            }
        }
        entries
    }

    /// Weights of the finite rows as weights of all rows: 0 for those dropped.
    pub fn spread(&self, weights: &[f64]) -> Vec<f64> {
        let mut all = vec![0.0; self.total];
        self.tasks.iter().zip(weights).for_each(|(task, weight)| all[*task] = *weight);
        all
    }

    /// What belongs to the finite rows of a list for all tasks.
    ///
    /// # Errors
    /// [`Error::Tasks`] if the list has another length.
    pub(crate) fn kept(&self, method: &'static str, what: &'static str, all: &[f64]) -> Result<Vec<f64>> {
        match all.len() == self.total {
            true => Ok(self.tasks.iter().map(|task| all[*task]).collect()),
            false => Err(Error::Tasks { method, what, expected: all.len(), actual: self.total }),
        }
    }

    /// The rows that are not zero, and their positions among the finite ones.
    pub(crate) fn without_zeros(&self) -> (Vec<usize>, Matrix) {
        let rows: Vec<usize> = (0..self.size()).filter(|i| self.products[(*i, *i)] > 0.0).collect();
        let part = self.products.part(&rows);
        (rows, part)
    }

    /// The rows of these tasks only; the others count as dropped.
    pub fn only(&self, tasks: &[usize]) -> Self {
        let rows: Vec<usize> = (0..self.size()).filter(|i| tasks.contains(&self.tasks[*i])).collect();
        let kept = rows.iter().map(|i| self.tasks[*i]).collect();
        Self { products: self.products.part(&rows), exponent: self.exponent, tasks: kept, total: self.total }
    }

    /// The sum with the Gramian of other leaves of the same gradients: how a Gramian is built part by part, with never
    /// more than one part of the Jacobian in memory. A row that is not finite in one part is dropped from the whole.
    ///
    /// # Errors
    /// [`Error::Tasks`] if the other is of another number of rows.
    pub fn add(&self, other: &Self) -> Result<Self> {
        if self.total != other.total {
            let (expected, actual) = (self.total, other.total);
            return Err(Error::Tasks { method: "gramian", what: "the first part", expected, actual });
        }
        let exponent = self.exponent.max(other.exponent);
        let whole = |g: &Self, i: usize, j: usize| {
            let position = |task: usize| g.tasks.iter().position(|t| *t == task);
            match (position(i), position(j)) {
                (Some(i), Some(j)) => power(g.products[(i, j)], 2 * (g.exponent - exponent)),
                _ => f64::NAN,
            }
        };
        let sum = Matrix::symmetric(self.total, |i, j| whole(self, i, j) + whole(other, i, j));
        let kept: Vec<bool> = sum.diagonal().iter().map(|x| !x.is_nan()).collect();
        Ok(Self::scaled_rows(&sum, &vec![exponent; self.total], &kept))
    }
}

/// `⌊log₂ x⌋` of a positive number.
fn exponent_of(x: f64) -> i32 {
    // Subnormal numbers first come into range.
    let (x, shift) = if x < f64::MIN_POSITIVE { (x * 2f64.powi(100), 100) } else { (x, 0) };
    ((x.to_bits() >> 52) & 0x7ff) as i32 - 1023 - shift
}

/// `x·2^e`, whatever the size of `e`.
fn power(mut x: f64, mut e: i32) -> f64 {
    while e.abs() > 1000 && x != 0.0 && x.is_finite() {
        let step = e.clamp(-1000, 1000);
        x *= 2f64.powi(step);
        e -= step;
    }
    match e.abs() > 1000 {
        true => x,
        false => x * 2f64.powi(e),
    }
}

/// A row over `2^e`.
fn scaled(row: &Tree, e: i32) -> Tree {
    // The factor of one subnormal or huge row may need two steps.
    let halves = [e / 2, e - e / 2];
    match e {
        0 => row.clone(),
        _ => halves.iter().fold(row.clone(), |row, e| row.scale(2f64.powi(-e))),
    }
}

/// `Jᵀw`: the sum of the rows with their weights. Rows of weight 0 are not looked at, so that what is not finite there
/// does no harm. One pass over each row, rounded once, in the dtype of the first.
pub(crate) fn combine(rows: &[Tree], weights: &[f64]) -> CoreResult<Tree> {
    let used: Vec<(&Tree, f64)> = rows.iter().zip(weights.iter().copied()).filter(|(_, w)| *w != 0.0).collect();
    let Some((first, rest)) = used.split_first() else {
        return Ok(rows.first().map(Tree::zeros_like).unwrap_or_default());
    };
    rest.iter().try_for_each(|(row, _)| first.0.same_structure(row))?;
    match host::combine(&used) {
        Some(sum) => sum,
        None => rest.iter().try_fold(first.0.clone().scale(first.1), |sum, (row, w)| sum.axpy(*w, row)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
    use core_tensor::testing::{Trees, assert_close, host_devices, property};

    fn row(values: &[f64], device: &Device) -> Tree {
        let data = TensorData::new(values.to_vec(), [values.len()]);
        Tree::empty().push("x", Tensor::<1>::from_data(data, (device, DType::F64))).unwrap()
    }

    #[test]
    fn products_are_those_of_the_trees() {
        let dtypes = [FloatDType::F16, FloatDType::BF16, FloatDType::F32, FloatDType::F64];
        for device in host_devices() {
            let dtypes = dtypes.into_iter().filter(|_| device == Device::flex()).chain([FloatDType::F32]);
            let trees = Trees::new().exponents(-6..=6).dtypes(dtypes).device(device.clone());
            for m in [1, 2, 3, 7] {
                property(16, trees.several(m), |rows| {
                    let gramian = Gramian::of(&rows).unwrap();
                    assert_eq!(gramian.size(), m);
                    let scaled = device::gramian(&rows);
                    for i in 0..m {
                        for j in 0..m {
                            let expected = rows[i].dot(&rows[j]).unwrap().value();
                            let size = rows[i].norm().value() * rows[j].norm().value();
                            let found = gramian.unscaled(gramian.products()[(i, j)], 2);
                            assert!((found - expected).abs() <= 1e-14 * size, "{found:e} {expected:e}");
                            let found = scaled.unscaled(scaled.products()[(i, j)], 2);
                            assert!((found - expected).abs() <= 1e-5 * size, "{found:e} {expected:e}");
                        }
                    }
                });
            }
        }
    }

    #[test]
    fn many_elements_and_rows_meet_in_blocks() {
        let device = Device::flex();
        let mut random = core_tensor::Random::new(1);
        for m in [1, 5, 9, 33] {
            let like = Tree::empty().push("a", Tensor::<2>::zeros([211, 199], &device)).unwrap();
            let like = like.push("b", Tensor::<1>::zeros([7], &device)).unwrap();
            let rows: Vec<Tree> = (0..m).map(|_| random.normal_like(&like, 1.0)).collect();
            let gramian = Gramian::of(&rows).unwrap();
            for (i, j) in [(0, 0), (0, m - 1), (m / 2, m / 3), (m - 1, m - 1)] {
                let expected = rows[i].dot(&rows[j]).unwrap().value();
                let found = gramian.unscaled(gramian.products()[(i, j)], 2);
                assert!((found - expected).abs() <= 1e-12 * 42_000.0, "{found} {expected}");
            }
            let weights: Vec<f64> = (0..m).map(|i| i as f64 - 1.5).collect();
            let chain = rows.iter().zip(&weights).map(|(row, w)| row.clone().cast(FloatDType::F64).scale(*w));
            let chain = chain.reduce(|a, b| a.add(&b).unwrap()).unwrap();
            assert_close(&combine(&rows, &weights).unwrap(), &chain, 1e-6 * weights[m - 1].abs().max(2.0) * 10.0);
        }
    }

    #[test]
    fn no_scale_loses_anything() {
        for device in host_devices() {
            for scale in [1e-320, 1e-300, 1e-160, 1e-10, 1.0, 1e15, 1e160, 1e300] {
                let rows = [row(&[3.0 * scale, 4.0 * scale], &device), row(&[-4.0 * scale, 0.0], &device)];
                let gramian = Gramian::of(&rows).unwrap();
                let tolerance = if scale < 1e-310 { 1e-3 } else { 1e-14 };
                assert!((gramian.cosine(0, 1) + 0.6).abs() < tolerance, "{scale:e}");
                assert!((gramian.norm(0) / (5.0 * scale) - 1.0).abs() < tolerance, "{scale:e}");
                assert!(gramian.products()[(0, 0)] >= 1.0 && gramian.products()[(0, 0)] < 4.0);
            }
            // Rows of two worlds.
            let rows = [row(&[1e200, 0.0], &device), row(&[1e-10, 1e-10], &device), row(&[0.0, 0.0], &device)];
            let gramian = Gramian::of(&rows).unwrap();
            assert!((gramian.cosine(0, 1) - 0.5f64.sqrt()).abs() < 1e-15 || gramian.norm(1) == 0.0);
            assert_eq!((gramian.size(), gramian.norm(2), gramian.cosine(0, 2)), (3, 0.0, 0.0));
        }
    }

    #[test]
    fn rows_that_are_not_finite_are_named_and_left_out() {
        for device in host_devices() {
            let rows = [
                row(&[1.0, f64::NAN], &device),
                row(&[3.0, 4.0], &device),
                row(&[f64::INFINITY, 0.0], &device),
                row(&[4.0, 3.0], &device),
            ];
            let gramian = Gramian::of(&rows).unwrap();
            assert_eq!((gramian.tasks(), gramian.dropped(), gramian.total()), (&[1, 3][..], vec![0, 2], 4));
            assert!((gramian.cosine(0, 1) - 0.96).abs() < 1e-15);
            assert_eq!(gramian.spread(&[0.25, 0.75]), [0.0, 0.25, 0.0, 0.75]);
            let sum = combine(&rows, &gramian.spread(&[0.25, 0.75])).unwrap();
            assert_close(&sum, &row(&[3.75, 3.25], &device), 1e-15);
            assert_close(&combine(&rows, &[0.0; 4]).unwrap(), &row(&[0.0, 0.0], &device), 0.0);
            assert_eq!(device::gramian(&rows).dropped(), [0, 2]);
        }
    }

    #[test]
    fn parts_add_up() {
        let device = Device::flex();
        let rows = [row(&[1.0, 2.0, 3.0], &device), row(&[-1.0, 5.0, 1e-3], &device)];
        let parts =
            [[row(&[1.0], &device), row(&[-1.0], &device)], [row(&[2.0, 3.0], &device), row(&[5.0, 1e-3], &device)]];
        let [a, b] = parts.map(|part| Gramian::of(&part).unwrap());
        let (sum, whole) = (a.add(&b).unwrap(), Gramian::of(&rows).unwrap());
        assert_eq!(sum.exponent(), whole.exponent());
        for (i, j) in [(0, 0), (0, 1), (1, 1)] {
            assert!((sum.products()[(i, j)] - whole.products()[(i, j)]).abs() < 1e-15);
        }
        let broken = Gramian::of(&[row(&[f64::NAN], &device), row(&[1.0], &device)]).unwrap();
        assert_eq!(a.add(&broken).unwrap().tasks(), [1]);
        let one = Gramian::of(&[row(&[1.0], &device)]).unwrap();
        assert!(matches!(a.add(&one), Err(Error::Tasks { expected: 2, actual: 1, .. })));
    }

    #[test]
    fn bad_rows_are_refused() {
        let device = Device::flex();
        assert!(matches!(Gramian::of(&[]), Err(Error::NoTasks)));
        let differ = [row(&[1.0], &device), row(&[1.0, 2.0], &device)];
        assert!(matches!(Gramian::of(&differ), Err(Error::Core(core_tensor::Error::Shape { .. }))));
        let empty = Gramian::of(&[Tree::empty(), Tree::empty()]).unwrap();
        assert_eq!((empty.size(), empty.norm(0), empty.condition()), (2, 0.0, f64::INFINITY));
    }

    #[test]
    fn turned_leaves_are_read_in_their_own_order() {
        for device in host_devices() {
            let x = Tensor::<2>::from_data([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], &device);
            let y = Tensor::<2>::from_data([[1.0, 10.0], [100.0, 1e3], [1e4, 1e5]], &device);
            let of = |x: Tensor<2>| Tree::empty().push("x", x).unwrap();
            let rows = [of(x.transpose()), of(y)];
            let gramian = Gramian::of(&rows).unwrap();
            assert_eq!(gramian.unscaled(gramian.products()[(0, 1)], 2), 635_241.0);
            let sum = combine(&rows, &[1.0, 0.5]).unwrap();
            let values: Vec<f64> = sum.to_data()[0].1.iter().collect();
            assert_eq!(values, [1.5, 9.0, 52.0, 505.0, 5003.0, 50006.0]);
        }
    }
}
