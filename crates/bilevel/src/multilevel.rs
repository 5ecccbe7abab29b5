//! Three levels: hypergradients composed edge by edge, exactly.

use core_tensor::{Batch, LeafName, Linearized, Program, Scalar, Tree};

use crate::ConjugateGradient;
use crate::certificate::Certificate;
use crate::error::{Error, Result, at_least_one, positive};
use crate::problem::observe;
use crate::solver::{LinearSolver, NegativeCurvature, Operator};
use crate::symmetry::{Asymmetry, asymmetry};

type Objective<B> = dyn Fn(&Tree, &Tree, &Tree, &B) -> burn::tensor::Tensor<1> + Send + Sync;

/// `min_x F(x, y*, z*)` with `y*(x) = argmin_y G(x, y, z*(x, y))` and `z*(x, y) = argmin_z H(x, y, z)`.
///
/// Each edge is one implicit differentiation. The lowest turns `F` and `G` into functions of `(x, y)`: with `H_zz q = G_z`,
/// `∇G̃ = G_w − H_wz q` for `w = (x, y)`, and the same for `F` with `p`. The upper one solves `G̃_yy s = F̃_y` and gives
/// `dΦ/dx = F̃_x − G̃_xy s`.
///
/// `G̃`'s second derivatives contain those of `z*`, which implementations usually leave out. Here a product along `a = (0, s, ż)`,
/// `ż = −H_zz⁻¹H_zy s`, is `Ġ_w − T_w − H_wz q̇` with `Ġ = ∇²G·a`, `T = ∇³H·(q, a)` and `H_zz q̇ = Ġ_z − T_z`: exact but for `T`, the only third
/// derivative, which is a fourth-order central difference of exact products and vanishes for a quadratic `H`.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `iterations` | 100 | ≥ 1 | conjugate gradients of each solve at most |
/// | `tolerance` | 1e-12 | > 0 | of each solve, relative; 1e-6 suits `f32` |
/// | `step` | 1e-3 | > 0 | of the difference for `T`, relative to `‖(x, y, z)‖/‖a‖`; 3e-2 suits `f32` |
///
/// Guarantees: equals the closed form of three quadratics (test `quadratics_in_closed_form`) and central differences of solved problems that are not
/// quadratic (`three_levels_match_central_differences`), which it would miss without `T` and `q̇`. Cost: two solves at the lowest level, then for each
/// product of the upper solve two solves and one product there, one product of `G`, four linearisations and products of `H` for `T`.
///
/// Errors: [`Error::IndefiniteCurvature`] at either level, [`Error::Detached`] for a leaf of `x` that neither `G` nor `H` reads,
/// [`Error::InnerIndependent`], [`Error::StopGradient`].
///
/// S. K. Choe, W. Neiswanger, P. Xie, E. Xing, "Betty: an automatic differentiation library for multilevel optimization", 2023 (arXiv:2207.02849), for the
/// composition along edges; it leaves `∇²z*` out.
pub struct Trilevel<F, G, H> {
    top: Program<F>,
    middle: Program<G>,
    bottom: Program<H>,
    shapes: [Tree; 3],
    joint: Tree,
    iterations: usize,
    tolerance: f64,
    step: f64,
}

/// A hypergradient through two edges.
#[derive(Clone, Debug)]
pub struct TrilevelGradient {
    /// `dΦ/dx`.
    pub gradient: Tree,
    /// `F` at the point.
    pub value: f64,
    /// The edge from `z` to `(x, y)`: `‖∇z H‖`, all products of `H`.
    pub lower: Certificate,
    /// The edge from `y` to `x`: `‖∇G̃_y‖`, products with `G̃_yy`, the residual of its system.
    pub upper: Certificate,
}

/// The parts of a tree of the joint point.
struct Parts {
    x: Tree,
    y: Tree,
    z: Tree,
}

/// What all products at one point share.
struct At<'a, F, G, H> {
    levels: &'a Trilevel<F, G, H>,
    point: Tree,
    batch: &'a H,
    middle: Linearized,
    bottom: Linearized,
    /// `H_zz q = G_z`.
    q: Tree,
    /// `∇G̃`.
    reduced: Parts,
    lower: Certificate,
}

impl<F: Batch + 'static, G: Batch + 'static, H: Batch + 'static> Trilevel<F, G, H> {
    /// Records the three objectives, from the top down, at the shapes of `x`, `y`, `z` and the batches.
    ///
    /// # Errors
    /// A function that cannot be recorded, or an operation of the lower two without a tangent rule; [`Error::Detached`], [`Error::InnerIndependent`],
    /// [`Error::StopGradient`].
    pub fn record(
        (x, y, z): (&Tree, &Tree, &Tree),
        (f, g, h): (&F, &G, &H),
        top: impl Fn(&Tree, &Tree, &Tree, &F) -> burn::tensor::Tensor<1> + Send + Sync + 'static,
        middle: impl Fn(&Tree, &Tree, &Tree, &G) -> burn::tensor::Tensor<1> + Send + Sync + 'static,
        bottom: impl Fn(&Tree, &Tree, &Tree, &H) -> burn::tensor::Tensor<1> + Send + Sync + 'static,
    ) -> Result<Self> {
        let shapes = [x.clone(), y.clone(), z.clone()];
        let leaves = ["x", "y", "z"].iter().zip(&shapes).flat_map(|(part, tree)| {
            tree.iter().map(move |(name, leaf)| (LeafName::new(format!("{part}/{}", name.path)), leaf.clone()))
        });
        let joint = Tree::from_leaves(leaves)?;
        let top = program(&joint, &shapes, f, Box::new(top))?;
        let middle = program(&joint, &shapes, g, Box::new(middle))?;
        let bottom = program(&joint, &shapes, h, Box::new(bottom))?;
        middle.require_second_order(&joint, g)?;
        bottom.require_second_order(&joint, h)?;
        let in_middle = middle.value_and_grad(&joint, g)?.absent;
        let in_bottom = bottom.value_and_grad(&joint, h)?.absent;
        let stripped = |path: &str| path.split_once('/').map_or(path, |(_, leaf)| leaf).to_string();
        if let Some(path) = in_bottom.iter().find(|path| path.starts_with("z/")) {
            return Err(Error::InnerIndependent { leaf: stripped(path) });
        }
        let nowhere = |part: &str| in_middle.iter().find(|path| path.starts_with(part) && in_bottom.contains(path));
        if let Some(path) = nowhere("y/") {
            return Err(Error::InnerIndependent { leaf: stripped(path) });
        }
        if let Some(path) = nowhere("x/") {
            return Err(Error::Detached { leaf: stripped(path), place: "the objectives of the lower levels" });
        }
        let cut = match asymmetry(&middle, &joint, g, "x/")? {
            None => asymmetry(&bottom, &joint, h, "x/")?,
            some => some,
        };
        if let Some(Asymmetry { block, sides: (one, other) }) = cut {
            return Err(Error::StopGradient { block, one, other });
        }
        Ok(Self { top, middle, bottom, shapes, joint, iterations: 100, tolerance: 1e-12, step: 1e-3 })
    }

    /// Other limits of the conjugate gradients.
    ///
    /// # Errors
    /// A parameter error for 0 iterations or a tolerance that is not above zero and finite.
    pub fn solves(self, iterations: usize, tolerance: f64) -> Result<Self> {
        let iterations = at_least_one("iterations", iterations)?;
        Ok(Self { iterations, tolerance: positive("tolerance", tolerance)?, ..self })
    }

    /// Another step of the difference for the third derivative.
    ///
    /// # Errors
    /// A parameter error unless it is above zero and finite.
    pub fn difference_step(self, step: f64) -> Result<Self> {
        Ok(Self { step: positive("step", step)?, ..self })
    }

    /// The hypergradient at `x` and solutions `y`, `z` of the lower levels.
    ///
    /// # Errors
    /// As the type says; [`Error::NotFinite`].
    pub fn hypergradient(&self, (x, y, z): (&Tree, &Tree, &Tree), (f, g, h): (&F, &G, &H)) -> Result<TrilevelGradient> {
        let mut at = self.at(self.join(x, y, z)?, g, h)?;
        let out = self.top.value_and_grad(&at.point, f)?;
        let value = Scalar::from_tensor(out.value).value();
        let outer = self.split(&out.gradient)?;
        at.lower.gradients += 1;
        let p = at.solve(&outer.z)?;
        let mixed = at.along_z(&p)?;
        let (in_x, in_y) = (outer.x.sub(&mixed.x)?, outer.y.sub(&mixed.y)?);

        let mut upper = Certificate { inner_residual: at.reduced.y.norm().value(), ..Certificate::default() };
        let s = {
            let mut product = |s: &Tree| Ok(at.product(s)?.y);
            let mut operator = Operator::new(&mut product, 0.0);
            let s = self.solver()?.solve(&mut operator, &in_y)?;
            (upper.hessian_vector_products, upper.curvature) = (operator.products + 1, operator.curvature);
            s
        };
        let Parts { x: mixed, y: image, .. } = at.product(&s)?;
        observe(&mut upper.curvature, &s, &image)?;
        let size = in_y.norm().value();
        let residual = image.sub(&in_y)?.norm().value();
        upper.linear_residual = Some(if size == 0.0 { residual } else { residual / size });
        let gradient = in_x.sub(&mixed)?;
        match gradient.is_finite().value() == 1.0 {
            true => Ok(TrilevelGradient { gradient, value, lower: at.lower, upper }),
            false => Err(Error::NotFinite { what: "the hypergradient" }),
        }
    }

    /// `y*(x)` and `z*(x, y*)` by Newton's method on both edges, from the points given: until `‖∇G̃_y‖` and `‖∇z H‖` are at most `tolerance`.
    ///
    /// # Errors
    /// A tolerance that is not above zero and finite; [`Error::InnerNotConverged`] after 50 steps of either.
    pub fn solve(&self, x: &Tree, (y, z): (&Tree, &Tree), (g, h): (&G, &H), tolerance: f64) -> Result<(Tree, Tree)> {
        let tolerance = positive("tolerance", tolerance)?;
        let (mut y, mut z) = (y.clone(), self.bottom_solution((x, y, z), h, tolerance)?);
        let mut residual = f64::INFINITY;
        for _ in 0..50 {
            let mut at = self.at(self.join(x, &y, &z)?, g, h)?;
            let slope = at.reduced.y.clone();
            residual = slope.norm().value();
            if residual <= tolerance {
                return Ok((y, z));
            }
            let mut product = |s: &Tree| Ok(at.product(s)?.y);
            let mut operator = Operator::new(&mut product, 0.0);
            let step = self.newton()?.solve(&mut operator, &slope)?;
            // Half the step until the slope falls; the smallest one is taken as it is.
            let mut length = 1.0;
            loop {
                let next = y.clone().axpy(-length, &step)?;
                let solved = self.bottom_solution((x, &next, &z), h, tolerance)?;
                let slope = self.at(self.join(x, &next, &solved)?, g, h)?.reduced.y.norm().value();
                if slope < residual || length < 1e-4 {
                    (y, z) = (next, solved);
                    break;
                }
                length *= 0.5;
            }
        }
        Err(Error::InnerNotConverged { residual, tolerance })
    }

    /// `F(x, y, z)`.
    ///
    /// # Errors
    /// Trees of another structure than recorded.
    pub fn value(&self, (x, y, z): (&Tree, &Tree, &Tree), f: &F) -> Result<f64> {
        Ok(Scalar::from_tensor(self.top.value(&self.join(x, y, z)?, f)?).value())
    }

    fn bottom_solution(&self, (x, y, z): (&Tree, &Tree, &Tree), h: &H, tolerance: f64) -> Result<Tree> {
        let mut z = z.clone();
        let mut residual = f64::INFINITY;
        for _ in 0..50 {
            let linear = self.bottom.linearize(&self.join(x, y, &z)?, h)?;
            let slope = self.split(&linear.gradient)?.z;
            residual = slope.norm().value();
            if residual <= tolerance {
                return Ok(z);
            }
            let mut product = |v: &Tree| Ok(self.split(&linear.hvp(&self.lift(v)?)?)?.z);
            let mut operator = Operator::new(&mut product, 0.0);
            let step = self.newton()?.solve(&mut operator, &slope)?;
            let mut length = 1.0;
            loop {
                let next = z.clone().axpy(-length, &step)?;
                let gradient = self.bottom.value_and_grad(&self.join(x, y, &next)?, h)?.gradient;
                if self.split(&gradient)?.z.norm().value() < residual || length < 1e-4 {
                    z = next;
                    break;
                }
                length *= 0.5;
            }
        }
        Err(Error::InnerNotConverged { residual, tolerance })
    }

    fn solver(&self) -> Result<ConjugateGradient> {
        ConjugateGradient::new(self.iterations)?.tolerance(self.tolerance)
    }

    fn newton(&self) -> Result<ConjugateGradient> {
        Ok(self.solver()?.on_negative_curvature(NegativeCurvature::Damp))
    }

    fn at<'a>(&'a self, point: Tree, g: &G, h: &'a H) -> Result<At<'a, F, G, H>> {
        let (middle, bottom) = (self.middle.linearize(&point, g)?, self.bottom.linearize(&point, h)?);
        let slope = self.split(&middle.gradient)?;
        let residual = self.split(&bottom.gradient)?.z.norm().value();
        let lower = Certificate { inner_residual: residual, gradients: 2, ..Certificate::default() };
        let (q, reduced) = (Tree::empty(), Parts { x: Tree::empty(), y: Tree::empty(), z: Tree::empty() });
        let mut at = At { levels: self, point, batch: h, middle, bottom, q, reduced, lower };
        at.q = at.solve(&slope.z)?;
        let mixed = at.along_z(&at.q.clone())?;
        at.reduced = Parts { x: slope.x.sub(&mixed.x)?, y: slope.y.sub(&mixed.y)?, z: slope.z };
        Ok(at)
    }

    fn join(&self, x: &Tree, y: &Tree, z: &Tree) -> Result<Tree> {
        for (shape, tree) in self.shapes.iter().zip([x, y, z]) {
            shape.same_structure(tree)?;
        }
        let mut leaves = [x, y, z].into_iter().flat_map(|tree| tree.iter().map(|(_, leaf)| leaf.clone()));
        Ok(self.joint.clone().map(|_, _| leaves.next().expect("as many leaves as the joint point has"))?)
    }

    /// A direction in `z` alone.
    fn lift(&self, v: &Tree) -> Result<Tree> {
        self.join(&self.shapes[0].zeros_like(), &self.shapes[1].zeros_like(), v)
    }

    /// The parts of a tree of present leaves, absent ones as zeros.
    fn split(&self, present: &Tree) -> Result<Parts> {
        let mut rest = present.iter().peekable();
        let mut part = |prefix: &str, like: &Tree| {
            like.zeros_like().map(|name, zero| {
                let here = |path: &str| path.strip_prefix(prefix).is_some_and(|path| path == name.path);
                match rest.next_if(|(found, _)| here(&found.path)) {
                    Some((_, leaf)) => leaf.clone(),
                    None => zero,
                }
            })
        };
        let [x, y, z] = &self.shapes;
        Ok(Parts { x: part("x/", x)?, y: part("y/", y)?, z: part("z/", z)? })
    }
}

impl<F: Batch + 'static, G: Batch + 'static, H: Batch + 'static> At<'_, F, G, H> {
    /// `H_zz⁻¹b`.
    fn solve(&mut self, b: &Tree) -> Result<Tree> {
        let (levels, bottom) = (self.levels, &self.bottom);
        let mut product = |v: &Tree| Ok(levels.split(&bottom.hvp(&levels.lift(v)?)?)?.z);
        let mut operator = Operator::new(&mut product, 0.0);
        let v = levels.solver()?.solve(&mut operator, b)?;
        self.lower.hessian_vector_products += operator.products;
        self.lower.curvature.observe(operator.curvature.smallest);
        self.lower.curvature.observe(operator.curvature.largest);
        Ok(v)
    }

    /// `∇²H·(0, 0, v)`.
    fn along_z(&mut self, v: &Tree) -> Result<Parts> {
        self.lower.hessian_vector_products += 1;
        self.levels.split(&self.bottom.hvp(&self.levels.lift(v)?)?)
    }

    /// `∇²G̃·(0, s)`.
    fn product(&mut self, s: &Tree) -> Result<Parts> {
        let levels = self.levels;
        let zero = [&levels.shapes[0], &levels.shapes[2]].map(Tree::zeros_like);
        self.lower.hessian_vector_products += 1;
        let image = levels.split(&self.bottom.hvp(&levels.join(&zero[0], s, &zero[1])?)?)?.z;
        let moved = self.solve(&image)?.neg();
        let a = levels.join(&zero[0], s, &moved)?;
        let dg = levels.split(&self.middle.hvp(&a)?)?;
        let t = self.third(&a)?;
        let dq = self.solve(&dg.z.clone().sub(&t.z)?)?;
        let mixed = self.along_z(&dq)?;
        Ok(Parts { x: dg.x.sub(&t.x)?.sub(&mixed.x)?, y: dg.y.sub(&t.y)?.sub(&mixed.y)?, z: dg.z })
    }

    /// `∇³H·(q, a) = d/dt ∇²H(point + ta)·q` by `(8(D₁ − D₋₁) − (D₂ − D₋₂))/12ε`.
    fn third(&mut self, a: &Tree) -> Result<Parts> {
        let levels = self.levels;
        let size = a.norm().value();
        if size == 0.0 {
            return levels.split(&Tree::empty());
        }
        let q = levels.lift(&self.q)?;
        let step = levels.step * self.point.norm().value().max(1.0) / size;
        let mut sum: Option<Tree> = None;
        for (at, weight) in [(1.0, 8.0), (-1.0, -8.0), (2.0, -1.0), (-2.0, 1.0)] {
            let point = self.point.clone().axpy(at * step, a)?;
            let product = levels.bottom.jvp(&point, self.batch, &q)?.hessian_vector.scale(weight / (12.0 * step));
            self.lower.hessian_vector_products += 1;
            sum = Some(match sum {
                None => product,
                Some(sum) => sum.add(&product)?,
            });
        }
        levels.split(&sum.expect("four terms"))
    }
}

fn program<B: Batch + 'static>(
    joint: &Tree,
    shapes: &[Tree; 3],
    batch: &B,
    objective: Box<Objective<B>>,
) -> Result<Program<B>> {
    let shapes = shapes.clone();
    Ok(Program::record_tree(joint, batch, move |joint, batch| {
        let mut leaves = joint.iter().map(|(_, leaf)| leaf.clone());
        let mut take = |like: &Tree| {
            let leaves: Vec<_> = like.iter().map(|(name, _)| name.clone()).zip(leaves.by_ref()).collect();
            Tree::from_leaves(leaves).expect("the names are those of a tree")
        };
        let [x, y, z] = [take(&shapes[0]), take(&shapes[1]), take(&shapes[2])];
        objective(&x, &y, &z, batch)
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use burn::tensor::Tensor;
    use core_tensor::testing::property;

    type Levels = Trilevel<(), (), ()>;
    const NONE: (&(), &(), &()) = (&(), &(), &());

    fn at(tree: &Tree, name: &str) -> Tensor<1> {
        tree.get::<1>(name).unwrap()
    }

    /// Scalars: `H = ½h z² − z(y + e x)`, `G = ½(y − x)² + ½k(z − 1)²`, `F = ½(y − 2)² + z + ½·0.1x²`.
    #[test]
    fn quadratics_in_closed_form() {
        property(8, (0.5f64..3.0, 0.2f64..2.0, -1.0f64..1.0, -2.0f64..2.0), |(h, k, e, at_x)| {
            let (x, y, z) = (leaf("x", &[at_x]), leaf("y", &[0.3]), leaf("z", &[0.1]));
            let levels: Levels = Trilevel::record(
                (&x, &y, &z),
                NONE,
                |x, y, z, _| (at(y, "y") - 2.0).square() * 0.5 + at(z, "z") + at(x, "x").square() * 0.05,
                move |x, y, z, _| (at(y, "y") - at(x, "x")).square() * 0.5 + (at(z, "z") - 1.0).square() * (0.5 * k),
                move |x, y, z, _| at(z, "z").square() * (0.5 * h) - at(z, "z") * (at(y, "y") + at(x, "x") * e),
            )
            .unwrap();
            // z* = (y + ex)/h; y − x + k(z* − 1)/h = 0.
            let slope = (1.0 - k * e / (h * h)) / (1.0 + k / (h * h));
            let solved = slope * at_x + (k / h) / (1.0 + k / (h * h));
            let (y, z) = levels.solve(&x, (&y, &z), (&(), &()), 1e-12).unwrap();
            assert!((y.sum().value() - solved).abs() < 1e-10);
            assert!((z.sum().value() - (solved + e * at_x) / h).abs() < 1e-10);
            let found = levels.hypergradient((&x, &y, &z), NONE).unwrap();
            let expected = 0.1 * at_x + (solved - 2.0) * slope + (slope + e) / h;
            assert!((found.gradient.sum().value() - expected).abs() < 1e-9, "{:?} {expected}", found.gradient);
            assert!(found.upper.inner_residual < 1e-11 && found.lower.inner_residual < 1e-11);
            assert!((found.upper.curvature.smallest - (1.0 + k / (h * h))).abs() < 1e-9);
            assert!((found.lower.curvature.largest - h).abs() < 1e-12 && found.upper.linear_residual.unwrap() < 1e-9);
        });
    }

    /// The lowest level bends and its curvature depends on `y` and `x`.
    fn bent() -> (Levels, Tree, Tree, Tree) {
        let (x, y, z) = (leaf("x", &[0.4, -0.3]), leaf("y", &[0.2, 0.5, -0.1]), leaf("z", &[0.1, 0.0, 0.3, -0.2]));
        let spread = |t: Tensor<1>, rows: &[usize]| {
            Tensor::cat(rows.iter().map(|i| t.clone().slice_dim(0, *i..i + 1)).collect(), 0)
        };
        let levels = Trilevel::record(
            (&x, &y, &z),
            NONE,
            |x, y, z, _| {
                let z = at(z, "z");
                (z.clone() * z.clone().tanh()).sum()
                    + (at(y, "y") - 0.7).square().sum()
                    + at(x, "x").square().sum() * 0.1
            },
            move |x, y, z, _| {
                let (x, y, z) = (at(x, "x"), at(y, "y"), at(z, "z"));
                (y.clone() - spread(x, &[0, 1, 0])).square().sum() * 0.5
                    + (y.clone().exp().sum() * 0.1)
                    + (z.clone().square() * spread(y, &[0, 1, 2, 0]).tanh().add_scalar(2.0)).sum() * 0.2
            },
            move |x, y, z, _| {
                let (x, y, z) = (at(x, "x"), at(y, "y"), at(z, "z"));
                let curve = spread(y.clone(), &[0, 1, 2, 1]).exp() + 0.5;
                (z.clone().square() * curve).sum() * 0.5 + (z.clone().square().square()).sum() * 0.25
                    - (z * (spread(y, &[1, 0, 2, 2]).sin() + spread(x, &[0, 1, 1, 0]) + 0.5)).sum()
            },
        );
        (levels.unwrap(), x, y, z)
    }

    #[test]
    fn three_levels_match_central_differences() {
        let (levels, x, y, z) = bent();
        let solved = |x: &Tree| levels.solve(x, (&y, &z), (&(), &()), 1e-11).unwrap();
        let (best_y, best_z) = solved(&x);
        let found = levels.hypergradient((&x, &best_y, &best_z), NONE).unwrap();
        assert!(found.lower.curvature.is_positive() && found.upper.curvature.is_positive());
        let gradient = values(&found.gradient);
        for (i, slope) in gradient.iter().enumerate() {
            let phi = |step: f64| {
                let mut moved = values(&x);
                moved[i] += step;
                let x = leaf("x", &moved);
                let (y, z) = solved(&x);
                levels.value((&x, &y, &z), &()).unwrap()
            };
            let difference = (phi(1e-4) - phi(-1e-4)) / 2e-4;
            assert!((slope - difference).abs() < 1e-7, "{slope} {difference}");
        }
        // The third derivative of the lowest level matters: by a coarse difference it is another number.
        let blunt = levels.difference_step(0.7).unwrap().hypergradient((&x, &best_y, &best_z), NONE).unwrap();
        assert!(blunt.gradient.sub(&found.gradient).unwrap().norm().value() > 1e-4);
    }

    #[test]
    fn what_would_be_wrong_has_a_name() {
        let (x, y, z) = (leaf("x", &[0.5]), leaf("y", &[0.1]), leaf("z", &[0.2]));
        type Of = fn(&Tree, &Tree, &Tree, &()) -> Tensor<1>;
        let top: Of = |_, y, z, _| (at(y, "y") + at(z, "z")).square();
        let middle: Of = |x, y, z, _| (at(y, "y") - at(x, "x")).square() + at(z, "z").square();
        let bottom: Of = |_, y, z, _| (at(z, "z") - at(y, "y")).square();
        let record =
            |middle: Of, bottom: Of| -> Result<Levels> { Trilevel::record((&x, &y, &z), NONE, top, middle, bottom) };
        let detached = record(|_, y, z, _| (at(y, "y") * 2.0 - at(z, "z")).square(), bottom).err().unwrap();
        assert!(matches!(&detached, Error::Detached { leaf, .. } if leaf == "x"), "{detached}");
        let flat = record(middle, |_, y, _, _| at(y, "y").square()).err().unwrap();
        assert!(matches!(&flat, Error::InnerIndependent { leaf } if leaf == "z"), "{flat}");
        let cut: Of = |_, y, z, _| (at(z, "z") - at(y, "y")).square() + at(z, "z") * at(y, "y").powi_scalar(3).detach();
        assert!(matches!(record(middle, cut), Err(Error::StopGradient { .. })));
        let cut: Of = |x, y, z, _| (at(y, "y") - at(x, "x")).square() + at(z, "z") * at(y, "y").square().detach();
        assert!(matches!(record(cut, bottom), Err(Error::StopGradient { .. })));
        let bent = record(middle, |_, y, z, _| (at(z, "z") - at(y, "y")).square().neg()).unwrap();
        let error = bent.hypergradient((&x, &y, &z), NONE).unwrap_err();
        assert!(matches!(error, Error::IndefiniteCurvature { .. }), "{error}");
        let good = record(middle, bottom).unwrap();
        assert!(good.hypergradient((&y, &x, &z), NONE).is_err());
        assert!(good.solve(&x, (&y, &z), (&(), &()), f64::NAN).is_err());
        assert!(record(middle, bottom).unwrap().solves(0, 1.0).is_err());
        assert!(record(middle, bottom).unwrap().solves(1, 0.0).is_err() && good.difference_step(f64::NAN).is_err());
    }
}
