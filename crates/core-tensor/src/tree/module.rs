//! Trees from modules and from Burn's gradients, and back.

use std::collections::HashMap;
use std::sync::Arc;

use burn::backend::{DispatchTensor, TensorMetadata};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Gradients, Tensor};

use super::{LeafName, MAX_RANK, Tree, check_shape, with_rank};
use crate::{Error, Result};

/// # Modules and gradients
impl Tree {
    /// The trainable float parameters of a module in visiting order: those that require a
    /// gradient, or would once the module is moved to training ([`Module::train`]). Buffers are
    /// shared with the module. Lazy parameters are initialised.
    pub fn from_module<M: Module>(module: &M) -> Self {
        collect(module, Source::Trainable)
    }

    /// All float parameters of a module, with frozen ones and buffers such as the running
    /// statistics of batch normalisation. Quantised parameters are left out.
    pub fn from_module_all<M: Module>(module: &M) -> Self {
        collect(module, Source::All)
    }

    /// The gradients of a module's parameters, after [`Tensor::backward`]. Parameters the loss does
    /// not depend on have no leaf.
    ///
    /// ```
    /// use burn::nn::LinearConfig;
    /// use burn::optim::SgdConfig;
    /// use burn::tensor::{Device, Tensor};
    /// use core_tensor::Tree;
    ///
    /// let device = Device::flex().autodiff();
    /// let model = LinearConfig::new(3, 2).init(&device);
    /// let loss = model.forward(Tensor::<2>::ones([4, 3], &device)).sum();
    /// let grads = Tree::from_grads(loss.backward(), &model);
    /// assert_eq!(grads.names()[0].path, "weight");
    /// assert_eq!(grads.norm_inf().value(), 4.0);
    /// let model = SgdConfig::new().init().step(0.1, model, grads.into_params()?);
    /// # Ok::<(), core_tensor::Error>(())
    /// ```
    pub fn from_grads<M: Module>(mut grads: Gradients, module: &M) -> Self {
        collect(module, Source::Gradients(&mut grads))
    }

    /// The gradients an optimizer would be given, named by the module they belong to. Gradients of
    /// parameters that are not in the module are dropped.
    pub fn from_gradients_params<M: Module>(mut grads: GradientsParams, module: &M) -> Self {
        collect(module, Source::Params(&mut grads))
    }

    /// The leaves as gradients for `ModuleOptimizer::step`.
    ///
    /// # Errors
    /// [`Error::NoParamId`] for a leaf that belongs to no module, [`Error::RankLimit`] above rank 8.
    pub fn into_params(self) -> Result<GradientsParams> {
        let mut grads = GradientsParams::new();
        let (names, leaves) = self.into_parts();
        for (name, leaf) in names.iter().zip(leaves) {
            let id = name.id.ok_or_else(|| Error::NoParamId { path: name.path.clone() })?;
            let rank = leaf.shape().num_dims();
            with_rank!(
                rank,
                D => grads.register::<D>(id, Tensor::from_dispatch(leaf)),
                return Err(Error::RankLimit {
                    path: name.path.clone(),
                    rank,
                    max: MAX_RANK
                })
            );
        }
        Ok(grads)
    }

    /// The module with the values of the parameters named in this tree replaced. They keep their
    /// id, dtype and device, whether they require a gradient, and their checkpointing strategy;
    /// parameters without a leaf keep their value.
    ///
    /// Burn shares running statistics (batch normalisation) between clones of a module, so a leaf
    /// that names one changes it in the clones too.
    ///
    /// # Errors
    /// [`Error::UnknownLeaf`] for a leaf that is not a float parameter of the module,
    /// [`Error::Shape`] (tree left, module right) for one of another shape.
    pub fn write_into<M: Module>(&self, module: M) -> Result<M> {
        let present = Self::from_module_all(&module);
        let present = present.by_path();
        for (name, leaf) in self.iter() {
            match present.get(name.path.as_str()) {
                Some(value) => check_shape(name, &leaf.shape(), &value.shape())?,
                None => {
                    return Err(Error::UnknownLeaf { path: name.path.clone(), place: "the module" });
                }
            }
        }
        Ok(module.map(&mut Writer { path: Path::default(), values: self.by_path() }))
    }

    /// Check that every leaf is a leaf of `point` with the same id and shape, in the same order.
    pub(crate) fn check_part_of(&self, point: &Self) -> Result<()> {
        let mut candidates = point.iter();
        for (name, leaf) in self.iter() {
            if name.id.is_none() {
                return Err(Error::NoParamId { path: name.path.clone() });
            }
            let (_, value) =
                candidates.find(|(candidate, _)| *candidate == name).ok_or_else(|| Error::UnknownLeaf {
                    path: name.path.clone(),
                    place: "the module's trainable parameters, or is out of order",
                })?;
            check_shape(name, &leaf.shape(), &value.shape())?;
        }
        Ok(())
    }

    fn by_path(&self) -> HashMap<&str, &DispatchTensor> {
        let leaves = self.iter();
        leaves.map(|(name, leaf)| (name.path.as_str(), leaf)).collect()
    }
}

fn collect<M: Module>(module: &M, source: Source<'_>) -> Tree {
    let mut collector = Collector { path: Path::default(), source, names: vec![], leaves: vec![] };
    module.visit(&mut collector);
    Tree::from_parts(Arc::new(collector.names), collector.leaves)
}

/// What a visitor takes for a parameter.
enum Source<'a> {
    Trainable,
    All,
    Gradients(&'a mut Gradients),
    Params(&'a mut GradientsParams),
}

impl Source<'_> {
    fn take<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Option<Tensor<D>> {
        match self {
            Self::All => Some(param.val()),
            Self::Trainable => {
                let value = param.val();
                // Outside autodiff Burn shows what is to be trained only on the way to training.
                let trainable = match value.is_autodiff() {
                    true => value.is_require_grad(),
                    false => param.clone().train().is_require_grad(),
                };
                trainable.then_some(value)
            }
            Self::Gradients(grads) => param.val().grad_remove(grads),
            Self::Params(grads) => grads.remove(param.id),
        }
    }
}

struct Collector<'a> {
    path: Path,
    source: Source<'a>,
    names: Vec<LeafName>,
    leaves: Vec<DispatchTensor>,
}

impl ModuleVisitor for Collector<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(tensor) = self.source.take(param) else {
            return;
        };
        let leaf = tensor.inner().into_dispatch();
        if leaf.dtype().is_float() {
            self.leaves.push(leaf);
            self.names.push(LeafName { path: self.path.joined.clone(), id: Some(param.id) });
        }
    }
}

struct Writer<'a> {
    path: Path,
    values: HashMap<&'a str, &'a DispatchTensor>,
}

impl ModuleMapper for Writer<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(&leaf) = self.values.get(self.path.joined.as_str()) else {
            return param;
        };
        let (id, old, mapper) = param.consume();
        let mut value = Tensor::<D>::from_dispatch(leaf.clone());
        if value.dtype() != old.dtype() {
            value = value.cast(old.dtype());
        }
        if value.device() != old.device() {
            value = value.to_device(&old.device().inner());
        }
        if let Some(strategy) = old.gradient_checkpointing_strategy() {
            value =
                value.autodiff().with_gradient_checkpointing_strategy(strategy).set_require_grad(old.is_require_grad());
        }
        Param::from_mapped_value(id, value, mapper)
    }
}

/// The path from the root of a module to where a visitor is.
#[derive(Default)]
struct Path {
    joined: String,
    ends: Vec<usize>,
}

impl Path {
    fn enter(&mut self, name: &str) {
        self.ends.push(self.joined.len());
        if !self.joined.is_empty() {
            self.joined.push('.');
        }
        self.joined.push_str(name);
    }

    fn exit(&mut self) {
        self.joined.truncate(self.ends.pop().unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::ParamGroup;
    use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
    use burn::optim::SgdConfig;
    use burn::tensor::{DType, Device};

    #[derive(Module, Debug)]
    struct Net {
        body: Vec<Linear>,
        norm: BatchNorm,
        head: Linear,
    }

    fn net(device: &Device) -> Net {
        Net {
            body: vec![LinearConfig::new(3, 4).init(device), LinearConfig::new(4, 4).with_bias(false).init(device)],
            norm: BatchNormConfig::new(4).init(device),
            head: LinearConfig::new(4, 2).init(device),
        }
    }

    fn paths(tree: &Tree) -> Vec<&str> {
        tree.names().iter().map(|name| name.path.as_str()).collect()
    }

    const TRAINED: [&str; 7] =
        ["body.0.weight", "body.0.bias", "body.1.weight", "norm.gamma", "norm.beta", "head.weight", "head.bias"];

    #[test]
    fn parameters_are_named_in_visiting_order() {
        for device in [Device::flex(), Device::flex().autodiff()] {
            let net = net(&device);
            let tree = Tree::from_module(&net);
            assert_eq!(paths(&tree), TRAINED);
            assert!(!tree.device().unwrap().is_autodiff());
            assert_eq!(tree.leaf(5).0.id, Some(net.head.weight.id));
            let all = Tree::from_module_all(&net);
            assert_eq!(all.len(), 9);
            assert!(paths(&all).contains(&"norm.running_mean"));
            let frozen = net.freeze_group(ParamGroup::from_predicate("body"));
            assert_eq!(paths(&Tree::from_module(&frozen)), &TRAINED[3..]);
            assert_eq!(Tree::from_module_all(&frozen).len(), 9);
        }
    }

    #[test]
    fn gradients_become_trees_and_go_back() {
        let device = Device::flex().autodiff();
        let net = net(&device);
        let x = Tensor::<2>::ones([5, 3], &device);
        // The normalisation is not used.
        let loss = |net: &Net| {
            let x = net.body[1].forward(net.body[0].forward(x.clone()));
            net.head.forward(x).powf_scalar(2.0).sum()
        };
        let grads = Tree::from_grads(loss(&net).backward(), &net);
        assert_eq!(paths(&grads), ["body.0.weight", "body.0.bias", "body.1.weight", "head.weight", "head.bias"]);
        let params = GradientsParams::from_grads(loss(&net).backward(), &net);
        let again = Tree::from_gradients_params(params, &net);
        crate::testing::assert_same_bits(&grads, &again);

        let before = Tree::from_module(&net);
        let mut sgd = SgdConfig::new().init();
        let net = sgd.step(0.5, net, grads.clone().into_params().unwrap());
        let expected = before.restrict(&grads).unwrap().axpy(-0.5, &grads).unwrap();
        let after = Tree::from_module(&net);
        crate::testing::assert_close(&after.restrict(&grads).unwrap(), &expected, 1e-5);
        let nameless = Tree::empty().push("w", Tensor::<1>::ones([1], &device)).unwrap();
        assert!(matches!(nameless.into_params(), Err(Error::NoParamId { path }) if path == "w"));
    }

    #[test]
    fn values_are_written_into_a_module() {
        let device = Device::flex().autodiff().gradient_checkpointing();
        let net = net(&device).freeze_group(ParamGroup::from_path("head.bias"));
        let point = Tree::from_module(&net).ones_like().cast(burn::tensor::FloatDType::F64);
        let written = point.write_into(net.clone()).unwrap();
        let all = Tree::from_module_all(&written);
        assert!(all.iter().all(|(_, leaf)| leaf.dtype() == DType::F32));
        assert_eq!(Tree::from_module(&written).sum().value(), point.num_elements() as f64);
        assert_eq!(written.head.weight.id, net.head.weight.id);
        let weight = written.head.weight.val();
        assert!(weight.is_require_grad());
        assert_eq!(weight.gradient_checkpointing_strategy(), device.gradient_checkpointing_strategy());
        assert!(!written.head.bias.as_ref().unwrap().is_require_grad());
        // The old module keeps its values.
        assert!(Tree::from_module(&net).sum().value() != point.num_elements() as f64);

        let unknown = Tree::empty().push("no", Tensor::<1>::ones([1], &device)).unwrap();
        assert_eq!(unknown.write_into(net.clone()).unwrap_err().to_string(), "leaf `no` is not in the module");
        let shape = Tree::empty().push("head.weight", Tensor::<1>::ones([8], &device)).unwrap();
        assert_eq!(
            shape.write_into(net).unwrap_err().to_string(),
            "leaf `head.weight` has shape [8] on the left and [4, 2] on the right"
        );
    }

    #[test]
    fn a_tree_from_the_module_is_a_part_of_it() {
        let device = Device::flex();
        let net = net(&device);
        let point = Tree::from_module(&net);
        let part = point.filter(|name| name.path.contains("bias"));
        part.check_part_of(&point).unwrap();
        let other = Tree::from_module(&self::net(&device));
        assert!(matches!(other.check_part_of(&point), Err(Error::UnknownLeaf { .. })));
    }
}
