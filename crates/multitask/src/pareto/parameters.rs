//! Modules whose parameters are computed.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;

/// Which float parameters of a module are trained, in visiting order, and their shapes.
pub(crate) fn trainable<M: Module>(module: &M) -> Vec<(bool, Vec<usize>)> {
    let mut visitor = Trainable(Vec::new());
    module.visit(&mut visitor);
    visitor.0
}

struct Trainable(Vec<(bool, Vec<usize>)>);

impl ModuleVisitor for Trainable {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let trained = match value.is_autodiff() {
            true => value.is_require_grad(),
            false => param.clone().train().is_require_grad(),
        };
        self.0.push((trained, value.dims().to_vec()));
    }
}

/// What becomes of a parameter's own value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Given {
    /// The given value takes its place.
    Instead,
    /// The given value is added to it.
    Added,
}

/// A copy of a module with a value given for each trained parameter, flat, in visiting order.
pub(crate) fn with_parameters<M: Module>(module: &M, trained: &[bool], values: Vec<Tensor<1>>, given: Given) -> M {
    module.clone().map(&mut Fill { trained: trained.iter(), values: values.into_iter(), given })
}

struct Fill<'a> {
    trained: std::slice::Iter<'a, bool>,
    values: std::vec::IntoIter<Tensor<1>>,
    given: Given,
}

impl ModuleMapper for Fill<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.trained.next() != Some(&true) {
            return param;
        }
        let (id, own, mapper) = param.consume();
        let value = self.values.next().expect("a value for each trained parameter").reshape(own.dims());
        let value = match self.given {
            Given::Instead => value,
            Given::Added => own + value,
        };
        Param::from_mapped_value(id, value, mapper)
    }
}
