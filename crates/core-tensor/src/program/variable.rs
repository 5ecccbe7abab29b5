//! What a program of two arguments is recorded over: a tree or a module.

use burn::backend::DispatchTensor;
use burn::module::Module;

use super::graph::Source;
use super::record::{ModuleValues, Tape, Trainable, independent, instantiate};
use crate::error::Result;
use crate::tree::{LeafName, Tree};

/// An argument of [`Program::record_pair`](super::Program::record_pair): a [`Tree`], or any Burn module, of which the trainable
/// parameters are differentiated.
///
/// Nothing else can implement it.
pub trait Variable: Trace + Send + Sync + Sized + 'static {
    /// The values to differentiate in.
    fn to_tree(&self) -> Tree;
}

/// How an argument goes over to the recorder.
pub trait Trace {
    /// A copy that shares no running state.
    fn template(&self) -> Self;
    /// What is read but not differentiated.
    fn buffers(&self) -> Vec<DispatchTensor>;
    /// The argument with its leaves on the tape; `buffer` counts those of all arguments.
    fn trace(&self, tape: &mut Tape, buffer: &mut usize) -> Self;
}

impl Variable for Tree {
    fn to_tree(&self) -> Tree {
        self.clone()
    }
}

impl Trace for Tree {
    fn template(&self) -> Self {
        self.clone()
    }

    fn buffers(&self) -> Vec<DispatchTensor> {
        Vec::new()
    }

    fn trace(&self, tape: &mut Tape, _buffer: &mut usize) -> Self {
        Tree::from_parts(self.shared_names(), (0..self.len()).map(|_| tape.leaf()).collect())
    }
}

impl<M: Module + Sync + 'static> Variable for M {
    fn to_tree(&self) -> Tree {
        Tree::from_module(self)
    }
}

impl<M: Module> Trace for M {
    fn template(&self) -> Self {
        independent(self)
    }

    fn buffers(&self) -> Vec<DispatchTensor> {
        let mut values = Vec::new();
        let trainable = trainable(self);
        self.visit(&mut ModuleValues { values: &mut values, skip: &trainable, floats: 0 });
        values
    }

    fn trace(&self, tape: &mut Tape, buffer: &mut usize) -> Self {
        instantiate(self, tape, &trainable(self), &mut || {
            *buffer += 1;
            Source::Buffer(*buffer - 1)
        })
    }
}

fn trainable<M: Module>(module: &M) -> Vec<bool> {
    let mut trainable = Trainable(Vec::new());
    module.visit(&mut trainable);
    trainable.0
}

/// Two trees as one, each leaf's path behind the name of its part: `x/weight`, `z/weight`.
pub(super) fn join(parts: [(&str, &Tree); 2]) -> Result<Tree> {
    let leaves = parts.into_iter().flat_map(|(part, tree)| {
        tree.iter()
            .map(move |(name, leaf)| (LeafName { path: format!("{part}/{}", name.path), id: name.id }, leaf.clone()))
    });
    Tree::from_recorded(leaves)
}

#[cfg(test)]
mod tests {
    use burn::nn::{BatchNormConfig, LinearConfig};
    use burn::tensor::{Device, Tensor};

    use crate::testing::{assert_close, assert_same_bits, host_devices};
    use crate::{Error, Program, Tree};

    fn leaf(name: &str, values: &[f32], device: &Device) -> Tree {
        Tree::empty().push(name, Tensor::<1>::from_data(values, device)).unwrap()
    }

    /// `f = Σ xz²`: along `v` in `z` the Hessian gives `2xv` and the mixed product `2zv`.
    #[test]
    fn one_tangent_gives_both_products() {
        for device in host_devices() {
            let (x, z) = (leaf("a", &[2.0, -1.0], &device), leaf("a", &[3.0, 0.5], &device));
            let program = Program::record_pair(("x", &x), ("z", &z), &(), |x: &Tree, z: &Tree, _: &()| {
                (x.get::<1>("a").unwrap() * z.get::<1>("a").unwrap().square()).sum()
            });
            let program = program.unwrap();
            let pair = |x: &Tree, z: &Tree| Program::<()>::pair(("x", x), ("z", z)).unwrap();
            program.require_second_order(&pair(&x, &z), &()).unwrap();
            let direction = pair(&x.zeros_like(), &leaf("a", &[1.0, 10.0], &device));
            let out = program.jvp(&pair(&x, &z), &(), &direction).unwrap();
            assert_same_bits(
                &out.hessian_vector,
                &pair(&leaf("a", &[6.0, 10.0], &device), &leaf("a", &[4.0, -20.0], &device)),
            );
        }
        let x = leaf("a", &[1.0], &Device::flex());
        let twice =
            Program::record_pair(("x", &x), ("x", &x), &(), |x: &Tree, _: &Tree, _: &()| x.get::<1>("a").unwrap());
        assert!(matches!(twice, Err(Error::DuplicateLeaf { path }) if path == "x/a"));
    }

    /// Two modules with running state: each keeps its own buffers.
    #[test]
    fn modules_keep_their_buffers() {
        for device in host_devices() {
            let (linear, norm) = (LinearConfig::new(2, 2).init(&device), BatchNormConfig::new(2).init(&device));
            let input = Tensor::<2>::from_data([[1.0, 2.0], [3.0, -1.0], [0.5, 0.0]], &device);
            let program =
                Program::record_pair(("n", &norm), ("l", &linear), &input, |norm, linear, input: &Tensor<2>| {
                    norm.forward(linear.forward(input.clone())).powi_scalar(3).mean()
                });
            let program = program.unwrap();
            let modules = (norm.clone(), linear.clone());
            let both = Program::record(&modules, &input, |(norm, linear), input: &Tensor<2>| {
                norm.forward(linear.forward(input.clone())).powi_scalar(3).mean()
            });
            let whole = both.unwrap().value_and_grad(&Tree::from_module(&modules), &input).unwrap();
            let point =
                Program::<Tensor<2>>::pair(("n", &Tree::from_module(&norm)), ("l", &Tree::from_module(&linear)));
            let parts = program.value_and_grad(&point.unwrap(), &input).unwrap();
            assert!(parts.gradient.norm().value() > 0.0);
            let flat = |tree: &Tree| Tree::empty().push("all", tree.flatten().unwrap()).unwrap();
            assert_close(&flat(&parts.gradient), &flat(&whole.gradient), 1e-6);
        }
    }

    /// Functions on trees do not cut the gradient while they are recorded.
    #[test]
    fn functions_on_trees_are_differentiated() {
        let device = Device::flex();
        let x = leaf("a", &[2.0, -3.0], &device);
        let program = Program::record_tree(&x, &(), |x: &Tree, _: &()| {
            let squares = x.clone().map_flat(|_, x| x.square()).unwrap();
            let cubes = squares.zip_flat(x, |square, x| square * x).unwrap();
            let again = Tree::from_leaves(cubes.into_leaves()).unwrap();
            again.get::<1>("a").unwrap().sum()
        });
        let out = program.unwrap().jvp(&x, &(), &x.ones_like()).unwrap();
        assert_same_bits(&out.gradient, &leaf("a", &[12.0, 27.0], &device));
        assert_same_bits(&out.hessian_vector, &leaf("a", &[12.0, -18.0], &device));
    }
}
