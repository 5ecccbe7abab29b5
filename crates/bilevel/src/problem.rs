//! A bilevel problem as two recorded programs of the outer variable `x` and the inner variable `z`.

use burn::tensor::Tensor;
use core_tensor::{Batch, Linearized, Program, Scalar, Tree, Variable, central_difference};

use crate::certificate::Curvature;
use crate::error::{Error, Result};
use crate::symmetry::{Asymmetry, asymmetry};

/// `min_x f(x, z*(x))` with `z*(x) = argmin_z g(x, z)`, as ordinary Burn code on trees or modules.
///
/// `x` is an argument: what a closure captured could not be differentiated and is refused by the recorder. A `detach` of what depends on `x` or `z` makes
/// `∂z∂x g` and `∂x∂z g` differ, which mixed products take for the same: [`Error::StopGradient`]. Give such numbers with the batch, or see
/// [`Problem::allow_stop_gradients`].
pub trait Bilevel: Send + Sync + 'static {
    /// The outer variable as the code sees it: a [`Tree`] or a module.
    type Outer: Variable;
    /// The inner variable as the code sees it: a [`Tree`] or a module.
    type Inner: Variable;
    /// What the inner objective is given besides.
    type InnerBatch: Batch;
    /// What the outer objective is given besides.
    type OuterBatch: Batch;

    /// The inner objective `g(x, z)`, shape `[1]`.
    fn inner(&self, x: &Self::Outer, z: &Self::Inner, batch: &Self::InnerBatch) -> Tensor<1>;

    /// The outer objective `f(x, z)`, shape `[1]`.
    fn outer(&self, x: &Self::Outer, z: &Self::Inner, batch: &Self::OuterBatch) -> Tensor<1>;
}

/// Batches of both levels. Each objective is the mean over its batches; an unrolled step takes the inner ones in turn.
#[derive(Clone, Debug)]
pub struct Batches<I, O> {
    /// Of the inner objective; at least one.
    pub inner: Vec<I>,
    /// Of the outer objective; at least one.
    pub outer: Vec<O>,
}

impl<I, O> Batches<I, O> {
    /// One batch each.
    pub fn new(inner: I, outer: O) -> Self {
        Self { inner: vec![inner], outer: vec![outer] }
    }
}

/// An objective's value and its gradient in both variables. Leaves that it does not depend on are zero here; which they are is
/// known from the recording ([`Problem::inner_absent`]).
#[derive(Clone, Debug)]
pub struct Partials {
    /// The value.
    pub value: Scalar,
    /// Gradient in `x`.
    pub x: Tree,
    /// Gradient in `z`.
    pub z: Tree,
}

/// `H·v` and `(∂x∂z g)ᵀv`, which one tangent in `z` gives together.
#[derive(Clone, Debug)]
pub struct Product {
    /// `∂²zz g·v`.
    pub hessian: Tree,
    /// `(∂x∂z g)ᵀ·v`, in the space of `x`.
    pub mixed: Tree,
}

/// How products with second derivatives are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Products {
    /// Exact, by tangents.
    Exact,
    /// `(∇g(z + εv) − ∇g(z − εv))/2ε` with `ε = scale/‖v‖`, as in DARTS with `scale = 0.01`. Two gradients a product; needs no
    /// tangent rules.
    CentralDifference {
        /// Length of the step.
        scale: f64,
    },
}

/// A recorded bilevel problem. It depends on the types of the batches only; `x` and `z` are given as trees from here on.
///
/// ```
/// use bilevel::{Batches, ConjugateGradient, Implicit, Method, Problem};
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::Tree;
/// # fn main() -> bilevel::Result<()> {
/// // g = ½(z − 2)² + ½eˣz², f = ½(z − ½)²
/// let leaf = |name: &str, value: f32| Tree::empty().push(name, Tensor::<1>::from_data([value], &Device::default()));
/// let (x, z) = (leaf("lambda", 0.0)?, leaf("w", 1.0)?);
/// let batches = Batches::new((), ());
/// let problem = Problem::from_functions(
///     &x, &z, &batches,
///     |x: &Tree, z: &Tree, _: &()| {
///         let (lambda, w) = (x.get::<1>("lambda").unwrap(), z.get::<1>("w").unwrap());
///         ((w.clone() - 2.0).square() + lambda.exp() * w.square()) * 0.5
///     },
///     |_: &Tree, z: &Tree, _: &()| (z.get::<1>("w").unwrap() - 0.5).square() * 0.5,
/// )?;
/// let h = Implicit::new(ConjugateGradient::new(20)?).hypergradient(&problem, &x, &z, &batches)?;
/// assert!((h.gradient.sum().value() + 0.25).abs() < 1e-6);
/// assert!(h.certificate.curvature.is_positive());
/// # Ok(()) }
/// ```
pub struct Problem<I, O> {
    inner: Program<I>,
    outer: Program<O>,
    products: Products,
    x: Tree,
    z: Tree,
    /// The joint point, for its names.
    joint: Tree,
    inner_absent: Absent,
    outer_absent: Absent,
    asymmetry: Option<Asymmetry>,
}

/// Paths of the leaves that an objective does not depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Absent {
    /// Of `x`.
    pub x: Vec<String>,
    /// Of `z`.
    pub z: Vec<String>,
}

impl<I: Batch, O: Batch> Problem<I, O> {
    /// Records both objectives of a [`Bilevel`] at the shapes of `x`, `z` and the first batches.
    ///
    /// # Errors
    /// A function that cannot be recorded or has an operation without a tangent rule in the inner objective;
    /// [`Error::InnerIndependent`].
    pub fn record<P>(problem: P, x: &P::Outer, z: &P::Inner, batches: &Batches<I, O>) -> Result<Self>
    where
        P: Bilevel<InnerBatch = I, OuterBatch = O>,
    {
        let problem = std::sync::Arc::new(problem);
        let outer = problem.clone();
        Self::from_functions(
            x,
            z,
            batches,
            move |x: &P::Outer, z: &P::Inner, batch: &I| problem.inner(x, z, batch),
            move |x: &P::Outer, z: &P::Inner, batch: &O| outer.outer(x, z, batch),
        )
    }

    /// Records two functions.
    ///
    /// # Errors
    /// As [`Problem::record`].
    pub fn from_functions<X: Variable, Z: Variable>(
        x: &X,
        z: &Z,
        batches: &Batches<I, O>,
        inner: impl Fn(&X, &Z, &I) -> Tensor<1> + Send + Sync + 'static,
        outer: impl Fn(&X, &Z, &O) -> Tensor<1> + Send + Sync + 'static,
    ) -> Result<Self> {
        let problem = Self::from_functions_first_order(x, z, batches, inner, outer)?;
        let first = &batches.inner[0];
        problem.inner.require_second_order(&problem.joint, first)?;
        let asymmetry = asymmetry(&problem.inner, &problem.joint, first, "x/")?;
        Ok(Self { asymmetry, ..problem })
    }

    /// Records two functions whose inner one may have operations without a tangent rule: for penalty methods, or with
    /// [`Products::CentralDifference`].
    ///
    /// # Errors
    /// As [`Problem::record`], but for missing rules, which show at the first exact product. Stop-gradients are not looked for.
    pub fn from_functions_first_order<X: Variable, Z: Variable>(
        x: &X,
        z: &Z,
        batches: &Batches<I, O>,
        inner: impl Fn(&X, &Z, &I) -> Tensor<1> + Send + Sync + 'static,
        outer: impl Fn(&X, &Z, &O) -> Tensor<1> + Send + Sync + 'static,
    ) -> Result<Self> {
        let missing = |what| core_tensor::Error::Length { what, expected: 1, actual: 0 };
        let first_inner = batches.inner.first().ok_or_else(|| missing("the list of inner batches"))?;
        let first_outer = batches.outer.first().ok_or_else(|| missing("the list of outer batches"))?;
        let inner = Program::record_pair(("x", x), ("z", z), first_inner, inner)?;
        let outer = Program::record_pair(("x", x), ("z", z), first_outer, outer)?;
        let (x, z) = (x.to_tree(), z.to_tree());
        let joint = Program::<I>::pair(("x", &x), ("z", &z))?;
        let absent = |paths: Vec<String>| {
            let of = |part: &str| paths.iter().filter_map(|path| path.strip_prefix(part).map(str::to_string)).collect();
            Absent { x: of("x/"), z: of("z/") }
        };
        let inner_absent = absent(inner.value_and_grad(&joint, first_inner)?.absent);
        let outer_absent = absent(outer.value_and_grad(&joint, first_outer)?.absent);
        if let Some(leaf) = inner_absent.z.first() {
            return Err(Error::InnerIndependent { leaf: leaf.clone() });
        }
        let (products, asymmetry) = (Products::Exact, None);
        Ok(Self { inner, outer, products, x, z, joint, inner_absent, outer_absent, asymmetry })
    }

    /// The problem with second derivatives by another rule.
    pub fn with_products(self, products: Products) -> Self {
        Self { products, ..self }
    }

    /// Whether a stop-gradient in the inner objective makes its second derivatives depend on their order, so that products in the place of transposed
    /// ones would be wrong. Found at recording, by ⟨u, Hw⟩ = ⟨w, Hu⟩ at random directions; not looked for by
    /// [`Problem::from_functions_first_order`].
    pub fn has_stop_gradient(&self) -> bool {
        self.asymmetry.is_some()
    }

    /// What was found.
    #[cfg(test)]
    pub(crate) fn asymmetry(&self) -> Option<Asymmetry> {
        self.asymmetry
    }

    /// Takes products as they are in spite of stop-gradients, where these would be [`Error::StopGradient`].
    ///
    /// A stop-gradient is part of some methods, such as a target that is held fixed. [`Forward`](crate::Forward) differentiates such steps exactly, with or
    /// without this; for implicit and reverse methods the hypergradient is then an approximation that reads `∂x∂z g` as `∂z∂x g` of the
    /// gradient that is cut short, which leaves out how a value held fixed moves with `x`.
    pub fn allow_stop_gradients(self) -> Self {
        Self { asymmetry: None, ..self }
    }

    /// Leaves that the inner objective does not depend on.
    pub fn inner_absent(&self) -> &Absent {
        &self.inner_absent
    }

    /// Leaves that the outer objective does not depend on.
    pub fn outer_absent(&self) -> &Absent {
        &self.outer_absent
    }

    /// Checks that every leaf of `x` reaches the inner objective, or is one of `elsewhere`.
    pub(crate) fn require_attached(&self, place: &'static str, elsewhere: impl Fn(&str) -> bool) -> Result<()> {
        match self.inner_absent.x.iter().find(|path| !elsewhere(path)) {
            Some(leaf) => Err(Error::Detached { leaf: leaf.clone(), place }),
            None => Ok(()),
        }
    }

    /// Value and gradient of the inner objective, the mean over `batches`.
    ///
    /// # Errors
    /// Trees of another structure than recorded.
    pub fn inner_gradient(&self, x: &Tree, z: &Tree, batches: &[I]) -> Result<Partials> {
        self.gradient(&self.inner, x, z, batches)
    }

    /// Value and gradient of the outer objective, the mean over `batches`.
    ///
    /// # Errors
    /// As [`Problem::inner_gradient`].
    pub fn outer_gradient(&self, x: &Tree, z: &Tree, batches: &[O]) -> Result<Partials> {
        self.gradient(&self.outer, x, z, batches)
    }

    /// Value of the inner objective, the mean over `batches`.
    ///
    /// # Errors
    /// As [`Problem::inner_gradient`].
    pub fn inner_value(&self, x: &Tree, z: &Tree, batches: &[I]) -> Result<f64> {
        value(&self.inner, &self.join(x, z)?, batches)
    }

    /// Value of the outer objective, the mean over `batches`.
    ///
    /// # Errors
    /// As [`Problem::inner_gradient`].
    pub fn outer_value(&self, x: &Tree, z: &Tree, batches: &[O]) -> Result<f64> {
        value(&self.outer, &self.join(x, z)?, batches)
    }

    /// The inner objective's gradient and everything that second-order products at this point share.
    ///
    /// # Errors
    /// As [`Problem::inner_gradient`]; an operation without a tangent rule.
    pub fn linearize<'a>(&'a self, x: &Tree, z: &Tree, batches: &'a [I]) -> Result<Linearization<'a, I, O>> {
        let point = self.join(x, z)?;
        let (gradient, kind) = match self.products {
            Products::Exact => {
                let parts = batches.iter().map(|batch| Ok(self.inner.linearize(&point, batch)?));
                let parts = parts.collect::<Result<Vec<Linearized>>>()?;
                let gradients = parts.iter().map(|part| self.split(&part.value, &part.gradient));
                (mean(gradients.collect::<Result<_>>()?)?, Kind::Exact(parts))
            }
            Products::CentralDifference { scale } => {
                let scale = crate::error::positive("scale", scale)?;
                (self.inner_gradient(x, z, batches)?, Kind::Difference { point, batches, scale })
            }
        };
        Ok(Linearization { problem: self, gradient, kind, zero_x: x.zeros_like(), zero_z: z.zeros_like() })
    }

    fn gradient<B: Batch>(&self, program: &Program<B>, x: &Tree, z: &Tree, batches: &[B]) -> Result<Partials> {
        let point = self.join(x, z)?;
        let parts = batches.iter().map(|batch| {
            let out = program.value_and_grad(&point, batch)?;
            self.split(&out.value, &out.gradient)
        });
        mean(parts.collect::<Result<_>>()?)
    }

    fn join(&self, x: &Tree, z: &Tree) -> Result<Tree> {
        self.x.same_structure(x)?;
        self.z.same_structure(z)?;
        let mut leaves = x.iter().chain(z.iter()).map(|(_, leaf)| leaf.clone());
        Ok(self.joint.clone().map(|_, _| leaves.next().expect("as many leaves as the joint point has"))?)
    }

    fn split(&self, value: &Tensor<1>, gradient: &Tree) -> Result<Partials> {
        let (x, z) = self.split_tree(gradient)?;
        Ok(Partials { value: Scalar::from_tensor(value.clone()), x, z })
    }

    /// The parts of a tree of present joint leaves, absent ones as zeros.
    fn split_tree(&self, present: &Tree) -> Result<(Tree, Tree)> {
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
        Ok((part("x/", &self.x)?, part("z/", &self.z)?))
    }
}

/// The inner objective at a point, ready for products with its second derivatives.
pub struct Linearization<'a, I, O> {
    problem: &'a Problem<I, O>,
    /// Value and gradient there.
    pub gradient: Partials,
    kind: Kind<'a, I>,
    zero_x: Tree,
    zero_z: Tree,
}

enum Kind<'a, I> {
    Exact(Vec<Linearized>),
    Difference { point: Tree, batches: &'a [I], scale: f64 },
}

impl<I: Batch, O: Batch> Linearization<'_, I, O> {
    /// `H·v` and `(∂x∂z g)ᵀv` for a direction in `z`.
    ///
    /// # Errors
    /// A direction of another structure than `z`; [`Error::StopGradient`].
    pub fn along_z(&self, v: &Tree) -> Result<Product> {
        if let Some(Asymmetry { block, sides: (one, other) }) = self.problem.asymmetry {
            return Err(Error::StopGradient { block, one, other });
        }
        let (mixed, hessian) = self.product(&self.zero_x, v)?;
        Ok(Product { hessian, mixed })
    }

    /// The tangent of `∇z g` along a direction in both variables: `∂z∂x g·u + H·v`. Exact with stop-gradients too, for the gradient as it is.
    ///
    /// # Errors
    /// As [`Linearization::along_z`].
    pub fn tangent(&self, u: &Tree, v: &Tree) -> Result<Tree> {
        Ok(self.product(u, v)?.1)
    }

    /// The structure of the inner variable, as zeros.
    pub fn zero_z(&self) -> &Tree {
        &self.zero_z
    }

    fn product(&self, u: &Tree, v: &Tree) -> Result<(Tree, Tree)> {
        let problem = self.problem;
        let direction = problem.join(u, v)?;
        let product = match &self.kind {
            Kind::Exact(parts) => {
                let mut sum: Option<Tree> = None;
                for part in parts {
                    let product = part.hvp(&direction)?;
                    sum = Some(match sum {
                        None => product,
                        Some(sum) => sum.add(&product)?,
                    });
                }
                let sum = sum.expect("problems have at least one batch");
                if parts.len() == 1 { sum } else { sum.scale(1.0 / parts.len() as f64) }
            }
            Kind::Difference { point, batches, scale } => {
                let norm = direction.norm().value();
                if norm == 0.0 {
                    direction
                } else {
                    let gradient = |point: &Tree| {
                        let mut sum: Option<Tree> = None;
                        for batch in *batches {
                            let gradient = problem.inner.value_and_grad(point, batch)?.gradient;
                            sum = Some(match sum {
                                None => gradient,
                                Some(sum) => sum.add(&gradient)?,
                            });
                        }
                        Ok(sum.unwrap_or_default().scale(1.0 / batches.len() as f64))
                    };
                    central_difference(gradient, point, &direction, scale / norm)?
                }
            }
        };
        problem.split_tree(&product)
    }
}

/// `vᵀHv/vᵀv` into the range, for certificates.
pub(crate) fn observe(curvature: &mut Curvature, v: &Tree, image: &Tree) -> Result<(f64, f64)> {
    let (quadratic, square) = (v.dot(image)?.value(), v.dot(v)?.value());
    if square > 0.0 {
        curvature.observe(quadratic / square);
    }
    Ok((quadratic, square))
}

fn value<B: Batch>(program: &Program<B>, point: &Tree, batches: &[B]) -> Result<f64> {
    let mut sum = 0.0;
    for batch in batches {
        sum += Scalar::from_tensor(program.value(point, batch)?).value();
    }
    Ok(sum / batches.len() as f64)
}

fn mean(parts: Vec<Partials>) -> Result<Partials> {
    let count = parts.len() as f64;
    let mut parts = parts.into_iter();
    let missing = core_tensor::Error::Length { what: "the list of batches", expected: 1, actual: 0 };
    let mut sum = parts.next().ok_or(missing)?;
    if count == 1.0 {
        return Ok(sum);
    }
    for part in parts {
        sum = Partials { value: sum.value + part.value, x: sum.x.add(&part.x)?, z: sum.z.add(&part.z)? };
    }
    let share = 1.0 / count;
    Ok(Partials { value: sum.value * share, x: sum.x.scale(share), z: sum.z.scale(share) })
}
