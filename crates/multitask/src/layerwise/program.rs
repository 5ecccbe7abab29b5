//! The Gramian of a whole model, layer by layer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Dispatch, DispatchTensor, TensorMetadata};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::module::unfold4d;
use burn::tensor::ops::UnfoldOptions;
use burn::tensor::{Bool, Int, Shape, Tensor, TensorData};
use core_tensor::{Batch, BatchMapper, Frozen, LeafName, Program, Tree};

use super::layers::{Call, Kind, Layers, Layerwise};
use super::{rows, widened};
use crate::gramian::combine;
use crate::model::{MultiTask, Named, Part, Result, TaskHeads};
use crate::representation::{HeadsProgram, OnlyBody, REPRESENTATION, split};
use crate::solvers::Matrix;
use crate::task_gradients::{TaskGradients, products};
use crate::{Gramian, Jacobian};

/// Tasks whose moved gradients are in memory at once.
const MOVED: usize = 8;
/// Tasks that they are multiplied with at once: matrix products of few long rows are slow beyond this.
const BESIDE: usize = 32;

/// Exact task gradients of a [`MultiTask`] model in factored form: for each linear layer its input `A`, once, and the gradients `Dᵢ` at its
/// output, instead of the weight's gradients `AᵀDᵢ`.
///
/// A pass through the body then leaves out the weights' gradients, a third to a half of a backward pass, and a "row" is as long as the
/// layers' outputs for the whole batch instead of as long as the weights. Inner products come from the kernel `AAᵀ` (see the
/// [module page](super)), the weighted sum is `AᵀΣwᵢDᵢ`, formed once. What is computed is the same as in
/// [`TaskProgram`](crate::TaskProgram), up to rounding.
///
/// A layer is factored where that takes fewer multiplications, `n(in + m·out) < m·in·out` with `n` positions (examples, or pixels of the
/// output); parameters of other layers, of convolutions on large images above all, have their gradients formed as ever. So it pays for
/// wide layers and small batches, and never costs more than [`RepresentationPass::exact`](crate::RepresentationPass::exact). Layers that
/// are called several times are one layer with the positions of all calls.
///
/// The pass is a [`Jacobian`]: any [`GramianAggregator`](crate::GramianAggregator) can be applied to it.
///
/// ```
/// use burn::{nn::{LinearConfig, Tanh}, tensor::{Device, Tensor}};
/// use core_tensor::Tree;
/// use multitask::layerwise::LayerwiseProgram;
/// use multitask::{GramianAggregator, MultiTask, UpGrad};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let device = Device::default();
/// let linear = |from, to| LinearConfig::new(from, to).init(&device);
/// let heads = (0..4).map(|i| {
///     let loss = move |out: Tensor<2>, y: &Tensor<2>| (out - y.clone().slice_dim(1, i)).square().mean();
///     (format!("t{i}"), linear(32, 1), loss)
/// });
/// let net = MultiTask::new((linear(64, 32), Tanh::new())).heads(heads);
/// let batch = (Tensor::<2>::ones([8, 64], &device), Tensor::<2>::ones([8, 4], &device));
///
/// let program = LayerwiseProgram::record(&net, &batch)?;
/// let point = Tree::from_module(&net);
/// let pass = program.forward(&point, &batch)?;
/// let out = UpGrad::new().aggregate_through(&pass)?;
/// let update = pass.assemble(out.gradient, None)?;
/// assert_eq!(update.names(), point.names());
/// # Ok(()) }
/// ```
///
/// Cost: a forward pass, one backward pass through the heads, `m` through the body without the factored weights, `m²/2` products of
/// length `n·out` a layer in `f32`; memory `m·n·out` numbers a layer. Host synchronisations: one for each task and two for each layer.
pub struct LayerwiseProgram<X, Y> {
    heads: HeadsProgram<Y>,
    record: RecordBody<X>,
    /// By the shapes of the input's tensors.
    recorded: Mutex<HashMap<InputShapes, Arc<Recorded<X>>>>,
}

type InputShapes = Vec<Vec<usize>>;

type RecordBody<X> = Box<dyn Fn(&Tree, &X) -> Result<Recorded<X>> + Send + Sync>;
type RunBody<X> = Box<dyn Fn(&Tree, &Tree, &X) -> Result<core_tensor::Pullback> + Send + Sync>;

/// The body for inputs of one shape.
struct Recorded<X> {
    run: RunBody<X>,
    layers: Vec<Layer>,
    /// Zeros for the taps.
    taps: Tree,
    /// Length of the representation.
    length: usize,
}

/// A factored layer: the calls with one weight.
#[derive(Clone, Debug)]
struct Layer {
    weight: LeafName,
    bias: Option<LeafName>,
    kind: Kind,
    shape: Vec<usize>,
    calls: Vec<Site>,
}

/// Where a call's input starts in the recorded value, and what its tap is called.
#[derive(Clone, Debug)]
struct Site {
    tap: String,
    start: usize,
    input: Vec<usize>,
    output: Vec<usize>,
}

/// Task gradients in factored form. Made by [`LayerwiseProgram::forward`].
pub struct LayerwisePass {
    /// The losses, the heads' gradients, and rows at the representation.
    pub gradients: TaskGradients,
    /// Of each labelled task: gradients of the parameters that are formed, flat, and those at the taps.
    rows: Vec<Tree>,
    /// With their inputs, `[positions, in]`.
    layers: Vec<(Layer, Tensor<2>)>,
    /// The body's leaves as they are.
    body: Tree,
}

impl<X: Batch + Clone + 'static, Y: Batch + 'static> LayerwiseProgram<X, Y> {
    /// Records body and heads; other shapes are recorded when first met. The body's output has the examples along its first axis.
    ///
    /// # Errors
    /// [`core_tensor::ProgramError`] if one of them cannot be recorded; [`ModelError::Losses`](crate::ModelError::Losses).
    pub fn record<B, H, const D: usize>(model: &MultiTask<B, H>, batch: &(X, Y)) -> Result<Self>
    where
        B: Layerwise<X, Output = Tensor<D>> + Sync + 'static,
        H: TaskHeads<Tensor<D>, Y> + Named + Sync + 'static,
    {
        let heads: HeadsProgram<Y> = HeadsProgram::of::<X, B, H, D>(model, model.body.forward(batch.0.clone()).dims());
        let tasks = heads.tasks();
        let template = OnlyBody { body: model.body.clone() };
        let own: Vec<String> = Tree::from_module(&template).names().iter().map(|name| name.path.clone()).collect();
        let own: Vec<String> = own.into_iter().filter(|path| heads.part(path) != Part::Shared).collect();
        let record = Box::new(move |point: &Tree, input: &X| record_body(&template, &own, tasks, point, input));
        let program = Self { heads, record, recorded: Mutex::default() };
        program.recorded_for(&split(&Tree::from_module(model)).0, &batch.0)?;
        Ok(program)
    }

    /// A forward pass, a backward pass through the heads, and one through the body for each task that has labels.
    ///
    /// # Errors
    /// Those of [`Program::pullback`]; [`ModelError::Losses`](crate::ModelError::Losses).
    pub fn forward(&self, point: &Tree, (input, labels): &(X, Y)) -> Result<LayerwisePass> {
        let (body, in_heads) = split(point);
        let recorded = self.recorded_for(&body, input)?;
        let pass = (recorded.run)(&body, &recorded.taps, input)?;
        let z = pass.value.clone().narrow(0, 0, recorded.length);
        let mut gradients = self.heads.gradients(point, in_heads, &z, labels)?;
        let inputs = pass.value.dims()[0] - recorded.length;
        let mut all = Vec::with_capacity(gradients.rows.len());
        for (position, row) in gradients.rows.iter().enumerate() {
            let mut cotangent = vec![row.get::<1>(REPRESENTATION)?];
            if inputs > 0 {
                cotangent.push(Tensor::zeros([inputs], (&z.device(), z.dtype())));
            }
            let row = pass.apply(&Tensor::cat(cotangent, 0))?;
            let task = gradients.tasks[position];
            let (own, shared) = row.partition(|name| self.heads.part(&name.path) != Part::Shared);
            let own = own.filter(|name| self.heads.part(&name.path) == Part::Task(task));
            gradients.own = gradients.own.merge(shaped(own, &body)?)?;
            all.push(shared);
        }
        let present = |site: &Site| all.first().is_some_and(|row| row.position(&site.tap).is_some());
        let layers = recorded.layers.iter().filter(|layer| layer.calls.iter().all(present));
        let layers = layers.map(|layer| (layer.clone(), layer.input(&pass.value))).collect();
        Ok(LayerwisePass { gradients, rows: all, layers, body })
    }

    fn recorded_for(&self, body: &Tree, input: &X) -> Result<Arc<Recorded<X>>> {
        let mut shapes = Shapes(Vec::new());
        input.map(&mut shapes);
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = recorded.get(&shapes.0) {
            return Ok(found.clone());
        }
        let made = Arc::new((self.record)(body, input)?);
        recorded.insert(shapes.0, made.clone());
        Ok(made)
    }
}

impl LayerwisePass {
    /// The update of all leaves from what an aggregator made of the shared ones, as [`TaskGradients::assemble`].
    ///
    /// # Errors
    /// As [`TaskGradients::assemble`].
    pub fn assemble(self, shared: Tree, weights: Option<&[f64]>) -> Result<Tree> {
        let mut gradients = self.gradients;
        gradients.rows.clear();
        gradients.assemble(shared, weights)
    }

    /// Elements of a factored row, in place of the weights' own number.
    pub fn row_elements(&self) -> usize {
        self.rows.first().map_or(0, Tree::num_elements)
    }

    /// The gradients at a layer's output, `[positions, out]`.
    fn at_output(&self, layer: &Layer, row: &Tree) -> Result<Tensor<2>> {
        let parts = layer.calls.iter().map(|site| Ok(positions(&layer.kind, row.get::<1>(&site.tap)?, &site.output)));
        Ok(Tensor::cat(parts.collect::<Result<Vec<_>>>()?, 0))
    }

    /// `JJᵀ` line by line, at the scale of the gradients: the part on and above the diagonal.
    fn entries(&self) -> Result<Vec<f64>> {
        let m = self.rows.len();
        let is_tap = |name: &LeafName| name.path.starts_with(TAP);
        let formed: Vec<Tree> = self.rows.iter().map(|row| row.filter(|name| !is_tap(name))).collect();
        let mut entries = products(&formed)?;
        // Powers of two bring the factors near 1, so that `f32` keeps their squares.
        let exponents: Vec<i32> = self.rows.iter().map(|row| exponent(row.filter(is_tap).norm_inf().value())).collect();
        for (layer, input) in &self.layers {
            let size = exponent(input.clone().abs().max().into_data().iter::<f64>().next().unwrap_or(0.0));
            let input = scaled(widened(input.clone()), -size);
            let positions = input.dims()[0];
            let kernel = input.clone().matmul(input.transpose());
            let kernel = if layer.bias.is_some() { kernel + 2f32.powi(-2 * size) } else { kernel };
            let flat = |tensors: Vec<Tensor<2>>| {
                Tensor::cat(tensors.into_iter().map(|tensor| tensor.reshape([1, -1])).collect::<Vec<Tensor<2>>>(), 0)
            };
            let all = self.rows.iter().map(|row| self.at_output(layer, row)).collect::<Result<Vec<_>>>()?;
            let all = widened(flat(all));
            let factors: Vec<f64> = exponents.iter().map(|exponent| f64::from(-exponent).exp2()).collect();
            let options = (&all.device(), all.dtype());
            let all = all * Tensor::<2>::from_data(TensorData::new(factors, [m, 1]), options);
            for start in (0..m).step_by(MOVED) {
                let end = (start + MOVED).min(m);
                let of = |i: usize| all.clone().slice_dim(0, i..i + 1).reshape([positions as i64, -1]);
                let moved = flat((start..end).map(|i| kernel.clone().matmul(of(i))).collect());
                for others in (start..m).step_by(BESIDE) {
                    let last = (others + BESIDE).min(m);
                    let part = moved.clone().matmul(all.clone().slice_dim(0, others..last).transpose()).into_data();
                    for (k, value) in part.iter::<f64>().enumerate() {
                        let (i, j) = (start + k / (last - others), others + k % (last - others));
                        if i <= j {
                            let scale = f64::from(2 * size + exponents[i] + exponents[j]);
                            entries[i * m + j] += value * scale.exp2();
                        }
                    }
                }
            }
        }
        Ok(entries)
    }

    fn combined(&self, weights: &[f64]) -> Result<Tree> {
        let sum = combine(&self.rows, weights)?;
        let mut leaves: HashMap<String, DispatchTensor> = HashMap::new();
        for (layer, input) in &self.layers {
            let at_output = self.at_output(layer, &sum)?;
            if let Some(bias) = &layer.bias {
                leaves.insert(bias.path.clone(), at_output.clone().sum_dim(0).into_dispatch());
            }
            // `[in, out]`, what a linear layer's weight is; a convolution's has the outputs first.
            let weight = input.clone().transpose().matmul(at_output);
            let weight = if layer.kind == Kind::Linear { weight } else { weight.transpose() };
            let weight = Dispatch::float_reshape(weight.into_dispatch(), Shape::from(layer.shape.clone()));
            leaves.insert(layer.weight.path.clone(), weight);
        }
        for (name, leaf) in sum.into_leaves().filter(|(name, _)| !name.path.starts_with(TAP)) {
            leaves.insert(name.path, leaf);
        }
        let ordered = self.body.iter().filter_map(|(name, like)| {
            let leaf = leaves.remove(&name.path)?;
            Some((name.clone(), Dispatch::float_reshape(leaf, like.shape())))
        });
        Ok(Tree::from_leaves(ordered.collect::<Vec<_>>())?)
    }
}

impl Jacobian for LayerwisePass {
    fn gramian(&self) -> crate::Result<Gramian> {
        let (m, entries) = (self.rows.len(), self.entries()?);
        Gramian::from_products(&Matrix::symmetric(m, |i, j| entries[i * m + j]))
    }

    fn combine(&self, weights: &[f64]) -> crate::Result<Tree> {
        Ok(self.combined(weights)?)
    }
}

impl Layer {
    /// `[positions, in]` of all calls, from the recorded value.
    fn input(&self, value: &Tensor<1>) -> Tensor<2> {
        let calls = self.calls.iter().map(|site| {
            let input = value.clone().narrow(0, site.start, site.input.iter().product());
            match self.kind {
                Kind::Linear => input.reshape([-1, site.input[site.input.len() - 1] as i64]),
                Kind::Conv(shape) => {
                    let dims: [usize; 4] = std::array::from_fn(|d| site.input[d]);
                    let options = UnfoldOptions::new(shape.stride, shape.padding, shape.dilation);
                    rows(unfold4d(input.reshape(dims), shape.kernel, options).swap_dims(1, 2))
                }
            }
        });
        Tensor::cat(calls.collect(), 0)
    }
}

/// What the leaves that stand for layers' outputs start with: no path of a body does.
const TAP: &str = "tap.";

/// The body with taps at the layers that are worth it, for inputs of one shape.
fn record_body<B, X, const D: usize>(
    template: &OnlyBody<B>,
    own: &[String],
    tasks: usize,
    body: &Tree,
    input: &X,
) -> Result<Recorded<X>>
where
    B: Layerwise<X, Output = Tensor<D>> + Sync + 'static,
    X: Batch + Clone + 'static,
{
    let at = body.write_into(template.clone())?;
    let mut looking = Layers::looking();
    let length = at.body.forward_layerwise(input.clone(), &mut looking).dims().iter().product();
    let calls = looking.into_calls();
    // Parameters by identity: trained, shared by the tasks, and one leaf only.
    let mut leaves: HashMap<ParamId, Option<LeafName>> = HashMap::new();
    for name in body.names() {
        let Some(id) = name.id else { continue };
        let once = !leaves.contains_key(&id) && !own.contains(&name.path);
        leaves.insert(id, once.then(|| name.clone()));
    }
    let leaf = |id: ParamId| leaves.get(&id).cloned().flatten();
    let mut layers: Vec<Layer> = Vec::new();
    let mut members: Vec<Option<usize>> = Vec::new();
    for call in &calls {
        let known = layers.iter().position(|layer| layer.weight.id == Some(call.weight));
        let place = known.or_else(|| {
            let weight = leaf(call.weight)?;
            let bias = call.bias.and_then(&leaf);
            let shape = body.leaf(body.position(&weight.path)?).1.shape();
            let shape = (0..shape.num_dims()).map(|d| shape[d]).collect();
            layers.push(Layer { weight, bias, kind: call.kind, shape, calls: Vec::new() });
            Some(layers.len() - 1)
        });
        members.push(place);
    }
    let worth: Vec<bool> = (0..layers.len())
        .map(|layer| {
            let calls = calls.iter().zip(&members).filter(|(_, member)| **member == Some(layer));
            let calls: Vec<&Call> = calls.map(|(call, _)| call).collect();
            calls.iter().all(|call| call.kind == layers[layer].kind) && pays(&layers[layer], &calls, tasks)
        })
        .collect();
    let tapped: Vec<bool> = members.iter().map(|member| member.is_some_and(|layer| worth[layer])).collect();
    let device = body.device().unwrap_or_default();
    let (mut taps, mut start, mut sizes) = (Tree::empty(), length, Vec::new());
    for ((call, member), _) in calls.iter().zip(&members).zip(&tapped).filter(|(_, tapped)| **tapped) {
        let layer = &mut layers[member.expect("a tapped call has a layer")];
        let (tap, elements) = (format!("{TAP}{}", sizes.len()), call.output.iter().product::<usize>());
        layer.calls.push(Site { tap: tap.clone(), start, input: call.input.clone(), output: call.output.clone() });
        start += call.input.iter().product::<usize>();
        let dtype = body.leaf(body.position(&layer.weight.path).expect("a leaf of the body")).1.dtype();
        taps = taps.push(tap, Tensor::<1>::zeros([elements], (&device, dtype)))?;
        sizes.push(elements);
    }
    let layers: Vec<Layer> = layers.into_iter().filter(|layer| !layer.calls.is_empty()).collect();
    let covered = |name: &LeafName| layers.iter().any(|l| l.weight == *name || l.bias.as_ref() == Some(name));
    let formed: Vec<LeafName> = body.names().iter().filter(|name| !covered(name)).cloned().collect();

    let replaced = visited(&at, &formed);
    let point = point_of(body, &formed, &taps)?;
    let function = {
        let (formed, count) = (formed.clone(), sizes.len());
        move |point: &Tree, (input, body): &(X, Frozen<OnlyBody<B>>)| {
            let values = formed.iter().map(|name| point.get::<1>(&name.path).expect("a leaf of the point"));
            let body = body
                .0
                .clone()
                .map(&mut Replace { replaced: replaced.iter(), values: values.collect::<Vec<_>>().into_iter() });
            let taps = (0..count).map(|tap| point.get::<1>(&format!("{TAP}{tap}")).expect("a leaf of the point"));
            let mut layers = Layers::tapping(tapped.clone(), taps.collect());
            let z = body.body.forward_layerwise(input.clone(), &mut layers).reshape([-1]);
            Tensor::cat([z].into_iter().chain(layers.into_inputs()).collect(), 0)
        }
    };
    let program = Program::record_tree(&point, &(input.clone(), Frozen(at)), function)?;
    let template = template.clone();
    let run = Box::new(move |body: &Tree, taps: &Tree, input: &X| {
        let at = body.write_into(template.clone())?;
        Ok(program.pullback(&point_of(body, &formed, taps)?, &(input.clone(), Frozen(at)))?)
    });
    Ok(Recorded { run, layers, taps, length })
}

/// Whether the kernel of a layer takes fewer multiplications than its weight's gradients.
fn pays(layer: &Layer, calls: &[&Call], tasks: usize) -> bool {
    let out = match layer.kind {
        Kind::Linear => layer.shape[1],
        Kind::Conv(_) => layer.shape[0],
    };
    let features = layer.shape.iter().product::<usize>() / out.max(1);
    let n: usize = calls.iter().map(|call| call.output.iter().product::<usize>() / out.max(1)).sum();
    n * (features + tasks * out) < tasks * features * out
}

/// The formed leaves, flat, and the taps.
fn point_of(body: &Tree, formed: &[LeafName], taps: &Tree) -> Result<Tree> {
    let flat = formed.iter().map(|name| {
        let leaf = body.leaf(body.position(&name.path).expect("a leaf of the body")).1.clone();
        let elements = leaf.shape().num_elements();
        (name.clone(), Dispatch::float_reshape(leaf, Shape::new([elements])))
    });
    Ok(Tree::from_leaves(flat.collect::<Vec<_>>())?.merge(taps.clone())?)
}

/// Flat leaves in the shapes that they have in `like`.
fn shaped(flat: Tree, like: &Tree) -> Result<Tree> {
    let leaves = flat.into_leaves().map(|(name, leaf)| {
        let shape = like.leaf(like.position(&name.path).expect("a leaf of the body")).1.shape();
        (name, Dispatch::float_reshape(leaf, shape))
    });
    Ok(Tree::from_leaves(leaves.collect::<Vec<_>>())?)
}

/// `[positions, out]` of a flat output.
fn positions(kind: &Kind, flat: Tensor<1>, dims: &[usize]) -> Tensor<2> {
    match kind {
        Kind::Linear => flat.reshape([-1, dims[dims.len() - 1] as i64]),
        Kind::Conv(_) => {
            let [n, out, pixels] = [dims[0], dims[1], dims[2] * dims[3]];
            rows(flat.reshape([n, out, pixels]).swap_dims(1, 2))
        }
    }
}

/// `⌊log₂ x⌋` where `x` is neither 0 nor infinite, for a factor that keeps away from the ends of `f32`.
fn exponent(x: f64) -> i32 {
    if x > 0.0 && x.is_finite() { (x.log2().floor() as i32).clamp(-120, 120) } else { 0 }
}

fn scaled(tensor: Tensor<2>, exponent: i32) -> Tensor<2> {
    if exponent == 0 { tensor } else { tensor.mul_scalar(2f64.powi(exponent)) }
}

/// For every float parameter in visiting order whether it is one of these leaves.
fn visited<M: Module>(module: &M, leaves: &[LeafName]) -> Vec<bool> {
    let mut visitor = Visited { leaves: leaves.iter().peekable(), found: Vec::new() };
    module.visit(&mut visitor);
    visitor.found
}

struct Visited<'a> {
    leaves: std::iter::Peekable<std::slice::Iter<'a, LeafName>>,
    found: Vec<bool>,
}

impl ModuleVisitor for Visited<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found.push(self.leaves.next_if(|name| name.id == Some(param.id)).is_some());
    }
}

/// Puts flat values in the place of some parameters.
struct Replace<'a> {
    replaced: std::slice::Iter<'a, bool>,
    values: std::vec::IntoIter<Tensor<1>>,
}

impl ModuleMapper for Replace<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.replaced.next() != Some(&true) {
            return param;
        }
        let (id, own, mapper) = param.consume();
        let value = self.values.next().expect("a value for each parameter that is replaced");
        Param::from_mapped_value(id, value.reshape(own.dims()), mapper)
    }
}

/// The shapes of a batch.
struct Shapes(InputShapes);

impl BatchMapper for Shapes {
    fn float<const D: usize>(&mut self, tensor: &Tensor<D>) -> Tensor<D> {
        self.0.push(tensor.dims().to_vec());
        tensor.clone()
    }
    fn int<const D: usize>(&mut self, tensor: &Tensor<D, Int>) -> Tensor<D, Int> {
        self.0.push(tensor.dims().to_vec());
        tensor.clone()
    }
    fn bool<const D: usize>(&mut self, tensor: &Tensor<D, Bool>) -> Tensor<D, Bool> {
        self.0.push(tensor.dims().to_vec());
        tensor.clone()
    }
    fn module<M: Module>(&mut self, module: &M) -> M {
        module.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Forward, Masked, TaskMask};
    use crate::task_gradients::{GramianBy, TaskProgram};
    use burn::nn::conv::{Conv2d, Conv2dConfig};
    use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig, Tanh};
    use burn::tensor::{Device, Distribution};
    use core_tensor::testing::{assert_close, host_devices, property};

    type Labels = (Tensor<2>, Vec<TaskMask>);

    fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    }

    fn linear(from: usize, to: usize, device: &Device) -> Linear {
        LinearConfig::new(from, to).init(device)
    }

    /// Heads on flattened features, the last of the tasks without labels if asked for.
    #[derive(Module, Debug)]
    struct Head {
        linear: Linear,
    }

    impl<const D: usize> Forward<Tensor<D>> for Head {
        type Output = Tensor<2>;
        fn forward(&self, input: Tensor<D>) -> Tensor<2> {
            self.linear.forward(input.flatten(1, D - 1)).tanh()
        }
    }

    /// That pass and rows agree, for a body of output width `width` and inputs of any number of examples; gives the length of a factored
    /// row.
    fn agrees<B, X, const D: usize>(
        body: B,
        width: usize,
        tasks: usize,
        input: impl Fn(usize) -> X,
        device: &Device,
    ) -> usize
    where
        B: Layerwise<X, Output = Tensor<D>> + Sync + 'static,
        X: Batch + Clone + 'static,
    {
        let heads = (0..tasks).map(|i| {
            let loss = Masked::new(
                move |out: Tensor<2>, y: &Labels| (out - y.0.clone().slice_dim(1, i)).square().squeeze_dim::<1>(1),
                move |y: &Labels| y.1[i].clone(),
            );
            (format!("t{i}"), Head { linear: linear(width, 1, device) }, loss)
        });
        let net = MultiTask::new(body).heads(heads);
        let batch = |n: usize, last: bool| {
            let mask = |task: usize| TaskMask::new(&vec![task == 0 || task + 1 < tasks || last; n], device);
            (input(n), (random([n, tasks], device), (0..tasks).map(mask).collect::<Vec<_>>()))
        };
        let first = batch(3, true);
        let program = LayerwiseProgram::record(&net, &first).unwrap();
        let rows = TaskProgram::record(&net, &first).unwrap();
        let point = Tree::from_module(&net);
        let mut elements = 0;
        // Another point than that recorded at, other batches, and a task without labels.
        for (n, last, scale) in [(3, true, 1.0), (5, true, 0.7), (3, false, 1.3)] {
            let (point, batch) = (point.clone().scale(scale), batch(n, last));
            let expected = rows.gradients(&point, &batch).unwrap();
            let pass = program.forward(&point, &batch).unwrap();
            assert_eq!((&pass.gradients.tasks, &pass.gradients.absent), (&expected.tasks, &expected.absent));
            assert_close(&pass.gradients.own, &expected.own, 1e-5);
            let products = rows.forward(&point, &batch).unwrap().gramian(GramianBy::Rows).unwrap().values;
            let found = pass.gramian().unwrap().entries();
            let largest = products.iter().fold(0.0f64, |a, b| a.max(b.abs()));
            for (a, b) in found.iter().zip(&products) {
                assert!((a - b).abs() <= 5e-6 * largest, "{found:?} and {products:?}");
            }
            let weights: Vec<f64> = (0..expected.tasks.len()).map(|i| 1.0 - 0.6 * i as f64).collect();
            let combined = expected.combination(&weights).unwrap();
            let sum = Jacobian::combine(&pass, &weights).unwrap();
            assert_close(&sum, &combined, 1e-5);
            elements = if n == 3 { pass.row_elements() } else { elements };
            let update = expected.assemble(combined, Some(&weights)).unwrap();
            assert_close(&pass.assemble(sum, Some(&weights)).unwrap(), &update, 1e-5);
        }
        elements
    }

    #[test]
    fn linear_bodies_agree_with_their_rows() {
        property(12, (2..40usize, 1..24usize, 1..9usize, 1..5usize), |(from, hidden, out, tasks)| {
            let device = Device::flex();
            let body = (linear(from, hidden, &device), Tanh::new(), linear(hidden, out, &device));
            agrees(body, out, tasks, |n| random([n, from], &device), &device);
        });
        for device in host_devices() {
            // Three examples: 3·(12 + 10) numbers instead of 40·12 + 12 + 12·10 + 10.
            let body = (linear(40, 12, &device), Tanh::new(), linear(12, 10, &device));
            assert_eq!(agrees(body, 10, 4, |n| random([n, 40], &device), &device), 66);
            // Positions along two axes; the layer norm's parameters are formed.
            let norm: LayerNorm = LayerNormConfig::new(30).init(&device);
            let body = (linear(50, 30, &device), norm, Tanh::new(), linear(30, 4, &device));
            assert_eq!(agrees(body, 8, 3, |n| random([n, 2, 50], &device), &device), 6 * 30 + 60 + 6 * 4);
        }
    }

    #[test]
    fn convolutions_agree_with_their_rows() {
        for device in host_devices() {
            let conv = |from, to, stride| Conv2dConfig::new([from, to], [3, 3]).with_stride([stride; 2]).init(&device);
            // 5×5 → 2×2 → 1×1: both factored, and with many channels only the second.
            let body = |wide| (conv(wide, 12, 2), Tanh::new(), Conv2dConfig::new([12, 16], [2, 2]).init(&device));
            assert_eq!(agrees(body(20), 16, 4, |n| random([n, 20, 5, 5], &device), &device), 12 * 12 + 3 * 16);
            assert_eq!(agrees(body(1), 16, 4, |n| random([n, 1, 5, 5], &device), &device), 9 * 12 + 12 + 3 * 16);
        }
    }

    /// A layer that is called twice, one without a listener, a frozen one, and one without influence.
    #[derive(Module, Debug)]
    struct Odd {
        twice: Linear,
        plain: Linear,
        frozen: Linear,
        own: Linear,
        picture: Conv2d,
    }

    impl Forward<Tensor<2>> for Odd {
        type Output = Tensor<2>;
        fn forward(&self, input: Tensor<2>) -> Tensor<2> {
            self.forward_layerwise(input, &mut Layers::plain())
        }
    }

    impl Layerwise<Tensor<2>> for Odd {
        fn forward_layerwise(&self, input: Tensor<2>, layers: &mut Layers) -> Tensor<2> {
            let x = layers.linear(&self.twice, input).tanh();
            let x = layers.linear(&self.frozen, self.plain.forward(x)).tanh();
            let x = layers.linear(&self.twice, x).tanh();
            let own = layers.linear(&self.own, x.clone().detach());
            let n = x.dims()[0];
            let grouped = layers.conv2d(&self.picture, x.clone().reshape([n, 2, 3, 4])).reshape([n, 24]);
            x + grouped + own * 0.0
        }
    }

    #[test]
    fn layers_that_are_shared_frozen_or_not_listened_to_are_right_too() {
        let device = Device::flex();
        let square = || linear(24, 24, &device);
        let picture = Conv2dConfig::new([2, 2], [1, 1]).with_groups(2).init(&device);
        let body = Odd { twice: square(), plain: square(), frozen: square().no_grad(), own: square(), picture };
        let elements = agrees(body, 24, 6, |n| random([n, 24], &device), &device);
        // Six positions of the layer called twice; what nobody listens to is formed; `own` has three positions.
        assert_eq!(elements, 6 * 24 + 25 * 24 + 3 * 24 + 4);
    }

    #[test]
    fn a_task_that_is_not_finite_is_dropped_and_scales_do_not_matter() {
        let device = Device::flex();
        let body = (linear(30, 20, &device), Tanh::new(), linear(20, 6, &device));
        let heads: Vec<Linear> = (0..3).map(|_| linear(6, 1, &device)).collect();
        let batch = (random([2, 30], &device), random([2, 3], &device));
        for scale in [1e-30, 1e-12, 1.0, 1e12, 1e25] {
            let net = |middle: f64| {
                let heads = heads.iter().cloned().enumerate().map(|(i, head)| {
                    let factor = if i == 1 { middle } else { scale };
                    let loss = move |out: Tensor<2>, y: &Tensor<2>| (out - y.clone().slice_dim(1, i)).sum() * factor;
                    (format!("t{i}"), head, loss)
                });
                MultiTask::new(body.clone()).heads(heads)
            };
            let program = LayerwiseProgram::record(&net(f64::NAN), &batch).unwrap();
            let point = Tree::from_module(&net(1.0));
            let pass = program.forward(&point, &batch).unwrap();
            let gramian = pass.gramian().unwrap();
            assert_eq!((gramian.tasks(), gramian.dropped()), (&[0, 2][..], vec![1]), "{scale:e}");
            // A program that pulls zeros through the other heads would get NaN for all.
            let rows = TaskProgram::record(&net(1.0), &batch).unwrap().gradients(&point, &batch).unwrap().rows;
            let expected = Gramian::of(&[rows[0].clone(), rows[2].clone()]).unwrap();
            assert!((gramian.cosine(0, 1) - expected.cosine(0, 1)).abs() < 1e-5, "{scale:e}");
            assert!((gramian.norm(0) / expected.norm(0) - 1.0).abs() < 1e-5, "{scale:e}");
            let sum = Jacobian::combine(&pass, &[0.5, 0.0, 0.25]).unwrap();
            let (back, expected) = (1.0 / scale, combine(&rows, &[0.5, 0.0, 0.25]).unwrap());
            assert_close(&sum.scale(back), &expected.scale(back), 1e-5);
        }
    }
}
