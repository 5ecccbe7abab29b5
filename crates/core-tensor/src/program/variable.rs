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
pub trait Variable: Trace + Sync + Sized + 'static {
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
