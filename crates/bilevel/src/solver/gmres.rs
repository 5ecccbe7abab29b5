//! Generalised minimal residuals.

use core_tensor::Tree;

use super::{LinearSolver, Operator};
use crate::error::{Result, at_least_one, not_negative};

/// GMRES: the smallest residual of the Krylov space, for matrices that are indefinite or not symmetric.
///
/// Arnoldi's basis by modified Gram-Schmidt in `f64`, Givens rotations, restarted every `memory` steps. Stops at
/// `‖r‖ ≤ tolerance·‖b‖`.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `iterations` | – | ≥ 1 | products at most |
/// | `memory` | 20 | ≥ 1 | basis vectors kept, in trees |
/// | `tolerance` | 1e-10 | ≥ 0 | relative residual at which it stops |
///
/// Cost: one product and up to `memory` dot products an iteration. Y. Saad, M. H. Schultz, "GMRES: a generalized minimal residual
/// algorithm for solving nonsymmetric linear systems", 1986.
#[derive(Clone, Debug)]
pub struct Gmres {
    iterations: usize,
    memory: usize,
    tolerance: f64,
}

impl Gmres {
    /// At most so many iterations.
    ///
    /// # Errors
    /// A parameter error for 0.
    pub fn new(iterations: usize) -> Result<Self> {
        Ok(Self { iterations: at_least_one("iterations", iterations)?, memory: 20, tolerance: 1e-10 })
    }

    /// Another number of basis vectors.
    ///
    /// # Errors
    /// A parameter error for 0.
    pub fn memory(self, memory: usize) -> Result<Self> {
        Ok(Self { memory: at_least_one("memory", memory)?, ..self })
    }

    /// Another relative residual to stop at.
    ///
    /// # Errors
    /// A parameter error for a negative one or NaN.
    pub fn tolerance(self, tolerance: f64) -> Result<Self> {
        Ok(Self { tolerance: not_negative("tolerance", tolerance)?, ..self })
    }
}

impl LinearSolver for Gmres {
    /// # Errors
    /// [`Error::NotFinite`](crate::Error::NotFinite).
    fn solve(&self, operator: &mut Operator<'_>, b: &Tree) -> Result<Tree> {
        let stop = self.tolerance * b.norm().value();
        let mut v = b.zeros_like();
        let mut residual = b.clone();
        let mut left = self.iterations;
        while left > 0 {
            let norm = residual.norm().value();
            if norm <= stop {
                break;
            }
            let mut basis = vec![residual.scale(1.0 / norm)];
            // Columns of the rotated Hessenberg matrix, rotations, and the rotated right-hand side.
            let (mut columns, mut turns, mut rhs) = (Vec::<Vec<f64>>::new(), Vec::<(f64, f64)>::new(), vec![norm]);
            for step in 0..self.memory.min(left) {
                let mut w = operator.apply(&basis[step])?;
                let size = w.norm().value();
                let mut column = Vec::with_capacity(step + 2);
                for q in &basis {
                    let h = w.dot(q)?.value();
                    w = w.axpy(-h, q)?;
                    column.push(h);
                }
                let next = w.norm().value();
                column.push(next);
                for (i, (c, s)) in turns.iter().enumerate() {
                    (column[i], column[i + 1]) = (c * column[i] + s * column[i + 1], c * column[i + 1] - s * column[i]);
                }
                let radius = column[step].hypot(column[step + 1]);
                let (c, s) = match radius > 0.0 {
                    true => (column[step] / radius, column[step + 1] / radius),
                    false => (1.0, 0.0),
                };
                (column[step], column[step + 1]) = (radius, 0.0);
                let last = rhs[step];
                rhs[step] = c * last;
                rhs.push(-s * last);
                turns.push((c, s));
                columns.push(column);
                left -= 1;
                // The space is exhausted where nothing but rounding is left of the new direction.
                if rhs[step + 1].abs() <= stop || next <= size * 1e-14 {
                    left = if rhs[step + 1].abs() <= stop { 0 } else { left };
                    break;
                }
                basis.push(w.scale(1.0 / next));
            }
            let n = columns.len();
            let mut y = rhs;
            for i in (0..n).rev() {
                let known: f64 = (i + 1..n).map(|j| columns[j][i] * y[j]).sum();
                // A zero on the diagonal: the direction changes nothing.
                y[i] = if columns[i][i] == 0.0 { 0.0 } else { (y[i] - known) / columns[i][i] };
            }
            for (y, q) in y.iter().zip(&basis).take(n) {
                v = v.axpy(*y, q)?;
            }
            if left == 0 {
                break;
            }
            residual = operator.apply(&v)?.neg().add(b)?;
            left -= 1;
        }
        Ok(v)
    }
}
