//! Updates of the inner variable, differentiated exactly.
//!
//! An [`Update`] is a function `(x, z, ∇g, memory) -> (z', memory')` written on trees. It is recorded once, as the scalar
//! `φ = ⟨z', u⟩ + Σᵢ⟨memory'ᵢ, wᵢ⟩` of all its arguments and of `(u, w)`. Its gradient holds the new point (in `u`, `w`) and the
//! pullback of `(u, w)`; its Hessian times a tangent of the arguments holds the pushed-forward tangent. One recording serves the step, the
//! reverse and the forward mode, for any update.

mod adam;
mod descent;
mod momentum;
mod setting;
mod sgd;

pub use adam::Adam;
pub use descent::Descent;
pub use momentum::Momentum;
pub use setting::Setting;
pub use sgd::Sgd;

use std::sync::{Arc, Mutex};

use burn::tensor::{DType, Device, Tensor, TensorData};
use core_tensor::{LeafName, Program, Tree};

use crate::error::{Error, Result};

/// One step of an inner optimizer, written on trees with differentiable operations.
///
/// ```
/// use bilevel::{Update, update::Setting};
/// use burn::tensor::Tensor;
/// use core_tensor::Tree;
///
/// /// Sign-like descent: z − lr·tanh(∇g).
/// struct Soft(Setting);
///
/// impl Update for Soft {
///     fn memories(&self) -> usize {
///         0
///     }
///     fn step(&self, x: &Tree, z: Tree, gradient: Tree, _: Vec<Tree>, step: &Tensor<1>) -> core_tensor::Result<(Tree, Vec<Tree>)> {
///         let z = self.0.times(x, gradient.map_flat(|_, g| g.tanh())?, step)?.neg().add(&z)?;
///         Ok((z, vec![]))
///     }
/// }
/// # let _ = Soft(Setting::leaf("lr"));
/// ```
pub trait Update: Send + Sync + 'static {
    /// Trees remembered from step to step, of the structure of `z`; zero at the start.
    fn memories(&self) -> usize;

    /// The new point and memory. `step` is the step's number from 0, shape `[1]`. What is learned is read from `x`.
    ///
    /// # Errors
    /// Those of tree operations.
    fn step(
        &self,
        x: &Tree,
        z: Tree,
        gradient: Tree,
        memory: Vec<Tree>,
        step: &Tensor<1>,
    ) -> core_tensor::Result<(Tree, Vec<Tree>)>;
}

/// A point of the inner optimizer: `z` and its memory.
#[derive(Clone, Debug)]
pub struct Point {
    /// The inner variable.
    pub z: Tree,
    /// The optimizer's memory.
    pub memory: Vec<Tree>,
}

impl Point {
    /// The start: memory zero.
    pub fn start(z: &Tree, memories: usize) -> Self {
        Self { z: z.clone(), memory: (0..memories).map(|_| z.zeros_like()).collect() }
    }

    pub(crate) fn zeros_like(&self) -> Self {
        Self::start(&self.z.zeros_like(), self.memory.len())
    }

    fn trees(&self) -> impl Iterator<Item = &Tree> {
        std::iter::once(&self.z).chain(&self.memory)
    }
}

/// The cotangents of an update's arguments.
pub(crate) struct Pulled {
    pub x: Tree,
    pub gradient: Tree,
    pub point: Point,
}

/// An update recorded for one structure of `x` and `z`.
pub(crate) struct RecordedUpdate {
    program: Program<Tensor<1>>,
    joint: Tree,
    /// Leaves of `x` that the update reads.
    pub reads: Vec<String>,
    memories: usize,
    device: Device,
    dtype: DType,
}

/// Keeps the recording of an update for the structure it met last.
pub(crate) struct Recorder<U> {
    update: Arc<U>,
    last: Mutex<Option<(Tree, Tree, Arc<RecordedUpdate>)>>,
}

impl<U: Update> Recorder<U> {
    pub fn new(update: U) -> Self {
        Self { update: Arc::new(update), last: Mutex::new(None) }
    }

    pub fn memories(&self) -> usize {
        self.update.memories()
    }

    pub fn get(&self, x: &Tree, z: &Tree) -> Result<Arc<RecordedUpdate>> {
        let lock = || self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((for_x, for_z, recorded)) = &*lock()
            && for_x.same_structure(x).is_ok()
            && for_z.same_structure(z).is_ok()
        {
            return Ok(recorded.clone());
        }
        // Not under the lock: recording may hand work to other threads, which may ask for this update too.
        let recorded = Arc::new(RecordedUpdate::new(self.update.clone(), x, z)?);
        *lock() = Some((x.clone(), z.clone(), recorded.clone()));
        Ok(recorded)
    }
}

impl RecordedUpdate {
    fn new<U: Update>(update: Arc<U>, x: &Tree, z: &Tree) -> Result<Self> {
        let memories = update.memories();
        // x, z, the gradient, the memory; then the cotangents of z' and of the new memory.
        let mut parts = vec![("x".to_string(), x.clone()), ("z".to_string(), z.clone()), ("g".to_string(), z.clone())];
        parts.extend((0..memories).map(|i| (format!("m{i}"), z.clone())));
        parts.push(("u".to_string(), z.clone()));
        parts.extend((0..memories).map(|i| (format!("w{i}"), z.clone())));
        let leaves = parts.iter().flat_map(|(part, tree)| {
            tree.iter().map(move |(name, leaf)| (LeafName::new(format!("{part}/{}", name.path)), leaf.clone()))
        });
        let joint = Tree::from_leaves(leaves)?;
        let device = z.device().unwrap_or_default();
        let dtype = z.flatten()?.dtype();
        let (like_x, like_z) = (x.clone(), z.clone());
        let step = number(0, &device, dtype);
        let program = Program::record_tree(&joint, &step, move |joint, step| {
            let mut leaves = joint.iter().map(|(_, leaf)| leaf.clone());
            let mut take = |like: &Tree| {
                let leaves: Vec<_> = like.iter().map(|(name, _)| name.clone()).zip(leaves.by_ref()).collect();
                Tree::from_leaves(leaves).expect("the names are those of a tree")
            };
            let x = take(&like_x);
            let [z, gradient] = [take(&like_z), take(&like_z)];
            let memory: Vec<Tree> = (0..memories).map(|_| take(&like_z)).collect();
            let (z, memory) = update.step(&x, z, gradient, memory, step).expect("the update's own error");
            assert_eq!(memory.len(), memories, "an update gives back as many memories as it asks for");
            let mut phi = inner_product(&z, &take(&like_z));
            for memory in &memory {
                phi = phi + inner_product(memory, &take(&like_z));
            }
            phi
        })?;
        let absent = program.value_and_grad(&joint, &step)?.absent;
        if let Some(path) = absent.iter().find(|path| path.starts_with("u/") || path.starts_with('w')) {
            let leaf = path.split_once('/').map_or(path.as_str(), |(_, leaf)| leaf).to_string();
            return Err(Error::InnerIndependent { leaf });
        }
        let reads = x.names().iter().map(|name| name.path.clone());
        let reads = reads.filter(|path| !absent.contains(&format!("x/{path}"))).collect();
        Ok(Self { program, joint, reads, memories, device, dtype })
    }

    /// The step, and the pullback of `cotangent` where it is asked for.
    pub fn run(
        &self,
        x: &Tree,
        at: &Point,
        gradient: &Tree,
        cotangent: &Point,
        step: usize,
    ) -> Result<(Point, Pulled)> {
        let point = self.join(x, at, gradient, cotangent)?;
        let out = self.program.value_and_grad(&point, &number(step, &self.device, self.dtype))?;
        let (pulled_x, pulled_gradient, pulled, next) = self.split(&out.gradient, x, &at.z)?;
        Ok((next, Pulled { x: pulled_x, gradient: pulled_gradient, point: pulled }))
    }

    /// The tangent of the step along tangents of its arguments.
    pub fn push(
        &self,
        (x, at, gradient): (&Tree, &Point, &Tree),
        (dx, dat, dgradient): (&Tree, &Point, &Tree),
        step: usize,
    ) -> Result<Point> {
        let zero = at.zeros_like();
        let point = self.join(x, at, gradient, &zero)?;
        let direction = self.join(dx, dat, dgradient, &zero)?;
        let out = self.program.hvp(&point, &number(step, &self.device, self.dtype), &direction)?;
        Ok(self.split(&out, x, &at.z)?.3)
    }

    fn join(&self, x: &Tree, at: &Point, gradient: &Tree, cotangent: &Point) -> Result<Tree> {
        let trees = std::iter::once(x).chain([&at.z, gradient]).chain(&at.memory).chain(cotangent.trees());
        let mut leaves = trees.flat_map(|tree| tree.iter().map(|(_, leaf)| leaf.clone()));
        Ok(self.joint.clone().map(|_, _| leaves.next().expect("as many leaves as the joint point has"))?)
    }

    /// The parts of a tree of present leaves, absent ones as zeros.
    fn split(&self, present: &Tree, x: &Tree, z: &Tree) -> Result<(Tree, Tree, Point, Point)> {
        let mut rest = present.iter().peekable();
        let mut part = |prefix: &str, like: &Tree| {
            like.zeros_like().map(|name, zero| {
                let here = |path: &str| {
                    path.strip_prefix(prefix)
                        .and_then(|path| path.strip_prefix('/'))
                        .is_some_and(|path| path == name.path)
                };
                match rest.next_if(|(found, _)| here(&found.path)) {
                    Some((_, leaf)) => leaf.clone(),
                    None => zero,
                }
            })
        };
        let (x, pulled_z, gradient) = (part("x", x)?, part("z", z)?, part("g", z)?);
        let mut list = |name: char| {
            (0..self.memories).map(|i| part(&format!("{name}{i}"), z)).collect::<core_tensor::Result<Vec<Tree>>>()
        };
        let pulled = Point { z: pulled_z, memory: list('m')? };
        let next = part("u", z)?;
        let mut list = |name: char| {
            (0..self.memories).map(|i| part(&format!("{name}{i}"), z)).collect::<core_tensor::Result<Vec<Tree>>>()
        };
        Ok((x, gradient, pulled, Point { z: next, memory: list('w')? }))
    }
}

/// `gradient + λz`.
fn decayed(decay: &Option<Setting>, x: &Tree, z: &Tree, gradient: Tree, step: &Tensor<1>) -> core_tensor::Result<Tree> {
    match decay {
        None => Ok(gradient),
        Some(decay) => gradient.add(&decay.times(x, z.clone(), step)?),
    }
}

fn number(step: usize, device: &Device, dtype: DType) -> Tensor<1> {
    Tensor::from_data(TensorData::new(vec![step as f64], [1]), (device, dtype))
}

/// `⟨a, b⟩` as a recorded tensor.
fn inner_product(a: &Tree, b: &Tree) -> Tensor<1> {
    let product = a.clone().mul(b).expect("an update keeps the structure of z");
    let mut sum: Option<Tensor<1>> = None;
    // The flat leaves, each summed on the tape.
    let _ = product.map_flat(|_, leaf| {
        let part = leaf.clone().sum();
        sum = Some(match sum.take() {
            None => part,
            Some(sum) => sum + part,
        });
        leaf
    });
    sum.expect("z has a leaf")
}
