//! The gradient of every sample without storing any: norms first, then a weighted sum.
//!
//! A graph that gives one loss a sample and the gradient of their sum adds up samples in a few operations only: weight and bias
//! kernels of layers, products and sums over the sample axis. The rewrite follows the sample axis through the graph
//! ([`carry`]) and replaces those operations by the pieces that they add up:
//! - a product `Σᵢ lᵢ rᵢᵀ` (linear layers, convolutions by unfolding) is kept as its factors. With `P` positions in a sample,
//!   `‖lᵢrᵢᵀ‖² = ⟨lᵢᵀlᵢ, rᵢᵀrᵢ⟩` costs `P²` instead of the weight's size (ghost norms: I. Goodfellow, "Efficient per-example
//!   gradient computations", 2015; X. Li, F. Tramèr, P. Liang, T. Hashimoto, 2022), and where `2P²` is more than that size the
//!   product of every sample is formed (Z. Bu, J. Mao, S. Xu, mixed ghost clipping, 2022). Either way the weighted sum
//!   `Σᵢ wᵢ lᵢ rᵢᵀ` needs no second backward pass (Z. Bu, Y.-X. Wang, S. Zha, G. Karypis, book-keeping, 2023);
//! - rows of a table (embeddings) are compared by index;
//! - biases, scales and everything else that is summed plainly is small, and formed.

use burn::backend::ir::*;
use burn::tensor::{BoolStore, DType, IndexingUpdateOp, Shape, Slice};

use super::graph::{Builder, Graph, Source, index};
use super::samples::{Axis, carry};

type T = TensorIr;

/// An operation that mixes samples or has no rule, with the tensors that it reads.
pub(crate) struct Refused {
    pub operation: String,
    pub reads: Vec<usize>,
    /// The position among the gradients where it is about one.
    pub leaf: Option<usize>,
}

/// Rewrites a recorded pullback with `samples` outputs, one or more.
///
/// `host` says that the graph will run on the host, which has a kernel for the weights of a convolution image by image.
///
/// The weights of leaf `n` enter as [`Source::Weight`] `n`, the flags of the samples to keep (1 or 0) as the last of them. The
/// outputs are the losses, then for each leaf the squared norms, then the weighted gradients, and then those again with the
/// samples cleared that are not to be kept.
pub(crate) fn per_sample(graph: &Graph, samples: usize, host: bool) -> Result<Graph, Refused> {
    let mut start = Graph { tensors: graph.tensors, int: graph.int, ..Graph::default() };
    let mut carried = vec![None; graph.tensors];
    let mut seed = None;
    for entry in &graph.entries {
        let tensor = &entry.tensor;
        let length = if tensor.shape.num_dims() > 0 { tensor.shape[0] } else { 0 };
        let rows = length > 0 && length.is_multiple_of(samples);
        match entry.source {
            Source::Cotangent => {
                carried[index(tensor)] = Some(Axis::FIRST);
                seed = Some(tensor.clone());
                continue;
            }
            Source::Batch(_) if rows => {
                carried[index(tensor)] = Some(Axis { inner: length / samples, ..Axis::FIRST });
            }
            _ => {}
        }
        start.entries.push(entry.clone());
    }
    let (summed, turned) = (vec![None; graph.tensors], vec![None; graph.tensors]);
    let mut pass = Pass { b: start.into_builder(), samples, host, carried, summed, turned };
    if let Some(out) = seed {
        let value = ScalarIr::Float(1.0);
        pass.b.push(OperationIr::NumericFloat(out.dtype, NumericOperationIr::Full(FullOpIr { out, value })));
    }
    if samples == 1 {
        // The gradient of the only sample is the gradient.
        graph.operations.iter().for_each(|operation| pass.b.push(operation.clone()));
        let formed = |gradient: &T| Site::Formed(pass.b.reshape(gradient, &behind(1, &gradient.shape)));
        let leaves = graph.outputs[1..].iter().map(formed).collect();
        return Ok(pass.finish(graph, leaves));
    }
    for operation in &graph.operations {
        pass.visit(operation)?;
    }
    let leaves = pass.leaves(graph)?;
    Ok(pass.finish(graph, leaves))
}

/// A gradient that is a sum over samples, as what each sample adds.
#[derive(Clone)]
enum Site {
    /// `[samples, …]`: the contribution of each sample, in the shape of the sum behind the first axis.
    Formed(T),
    /// `left·rightᵀ` of each sample.
    Product(Product),
    /// Rows `gradient` added at `indices` of a table.
    Lookup(Lookup),
}

#[derive(Clone)]
struct Product {
    /// `[samples·groups, positions, rows of the weight]`
    left: T,
    /// `[samples·groups, positions, columns of the weight]`
    right: T,
    groups: usize,
    /// Of the sum.
    shape: Shape,
    after: After,
    /// The operation that sums, to be run again on a weighted cotangent; `None` to multiply the factors.
    again: Option<Again>,
}

#[derive(Clone)]
struct Lookup {
    /// `[samples, positions]`, integers.
    indices: T,
    /// `[samples, positions, size]`
    gradient: T,
    after: After,
    again: Again,
}

/// An operation with two inputs that carry samples along the given axes.
#[derive(Clone)]
struct Again {
    operation: OperationIr,
    cotangent: (T, Axis),
    other: Option<(T, Axis)>,
}

/// What follows a sum and keeps its norm up to a factor.
#[derive(Clone, Default, PartialEq)]
struct After {
    operations: Vec<OperationIr>,
    factor: f64,
}

struct Pass {
    b: Builder,
    samples: usize,
    host: bool,
    carried: Vec<Option<Axis>>,
    summed: Vec<Option<Vec<Site>>>,
    /// Of a tensor whose last two axes are exchanged, the tensor as it was.
    turned: Vec<Option<T>>,
}

impl Pass {
    fn axis(&self, tensor: &T) -> Option<Axis> {
        self.carried.get(index(tensor)).copied().flatten()
    }

    /// The axes of two factors of which one may be fixed: its rows are then its own, one for each of the other's.
    fn both(&self, a: (&T, usize), b: (&T, usize)) -> Option<(Axis, Axis)> {
        let fits = |(tensor, axis): (&T, usize), like: Axis| {
            (tensor.shape[axis] == like.outer * self.samples * like.inner).then_some(Axis { axis, ..like })
        };
        match (self.axis(a.0), self.axis(b.0)) {
            (Some(x), Some(y)) => Some((x, y)),
            (Some(x), None) => Some((x, fits(b, x)?)),
            (None, Some(y)) => Some((fits(a, y)?, y)),
            (None, None) => None,
        }
    }

    fn visit(&mut self, operation: &OperationIr) -> Result<(), Refused> {
        let refused = || Refused {
            operation: Graph::operation_name(operation),
            reads: operation.inputs().map(index).collect(),
            leaf: None,
        };
        let sums = operation.inputs().filter(|input| self.summed[index(input)].is_some()).count();
        let rows = operation.inputs().filter(|input| self.axis(input).is_some()).count();
        if sums > 0 {
            let sites = if rows == 0 { self.after(operation) } else { None };
            let sites = sites.ok_or_else(refused)?;
            let out = operation.outputs().next().expect("an operation has a result");
            self.summed[index(out)] = Some(sites);
            return Ok(());
        }
        if rows > 0 {
            if let Some(sites) = self.site(operation) {
                let out = operation.outputs().next().expect("an operation has a result");
                self.summed[index(out)] = Some(vec![sites]);
                return Ok(());
            }
            let axis = carry(operation, &|tensor| self.axis(tensor), self.samples).ok_or_else(refused)?;
            operation.outputs().for_each(|out| self.carried[index(out)] = Some(axis));
            if let OperationIr::BaseFloat(BaseOperationIr::SwapDims(d)) = operation
                && d.dim1.abs_diff(d.dim2) == 1
                && d.dim1.max(d.dim2) + 1 == d.input.shape.num_dims()
            {
                self.turned[index(&d.out)] = Some(d.input.clone());
            }
        }
        self.b.push(operation.clone());
        Ok(())
    }

    /// The operation as a sum over samples, if it is one.
    fn site(&mut self, operation: &OperationIr) -> Option<Site> {
        use ModuleOperationIr as M;
        use NumericOperationIr as N;
        macro_rules! convolution {
            ($d:ident, $padding:expr, $transposed:literal) => {{
                let o = &$d.options;
                let window = Window::new(&$d.weight.shape, &o.stride, &$padding, &o.dilation, o.groups);
                self.convolution(operation, &$d.x, &$d.output_grad, &$d.out, window, $transposed)
            }};
        }
        match operation {
            OperationIr::NumericFloat(_, op) => match op {
                N::Sum(d) => {
                    let all: Vec<usize> = (0..d.input.shape.num_dims()).collect();
                    self.sum(&d.input, &all, &d.out, 1.0)
                }
                N::Mean(d) => {
                    let all: Vec<usize> = (0..d.input.shape.num_dims()).collect();
                    self.sum(&d.input, &all, &d.out, 1.0 / d.input.shape.num_elements() as f64)
                }
                N::SumDim(d) => self.sum(&d.input, &[d.axis], &d.out, 1.0),
                N::MeanDim(d) => self.sum(&d.input, &[d.axis], &d.out, 1.0 / d.input.shape[d.axis] as f64),
                N::SumDims(d) => self.sum(&d.input, &d.axes, &d.out, 1.0),
                _ => None,
            },
            OperationIr::Float(_, FloatOperationIr::Matmul(d)) => self.matmul(d),
            OperationIr::BaseFloat(BaseOperationIr::SelectAssign(d)) => {
                let (value, indices) = self.both((&d.value, 0), (&d.indices, 0))?;
                let plain = self.axis(&d.tensor).is_none() && d.dim == 0 && value == indices;
                let first = plain && value.axis == 0 && d.update == IndexingUpdateOp::Add;
                first.then(|| self.lookup(operation, &d.indices, &d.value, value))
            }
            OperationIr::Module(op) => match op {
                M::LinearWeightBackward(d) => {
                    let known = self.axis(&d.x).or(self.axis(&d.output_grad))?.axis;
                    let (x, g) = self.both((&d.x, known), (&d.output_grad, known))?;
                    let last = d.x.shape.num_dims() - 1;
                    if x != g || x.axis == last {
                        return None;
                    }
                    let (left, right) = (self.positions(&d.x, x), self.positions(&d.output_grad, g));
                    Some(Site::Product(Product::new(left, right, 1, &d.out.shape, None)))
                }
                M::LinearBiasBackward(d) => {
                    let axis = self.axis(&d.output_grad)?;
                    let rows = self.positions(&d.output_grad, axis);
                    Some(self.formed_sum(&rows, 1, &d.out.shape))
                }
                M::EmbeddingBackward(d) => {
                    let (indices, gradient) = self.both((&d.indices, 0), (&d.out_grad, 0))?;
                    let first = indices == gradient && indices.axis == 0;
                    first.then(|| self.lookup(operation, &d.indices, &d.out_grad, gradient))
                }
                M::Conv1dWeightBackward(d) => convolution!(d, d.options.padding, false),
                M::Conv2dWeightBackward(d) if self.image_by_image(d) => Some(self.images(d)),
                M::Conv2dWeightBackward(d) => convolution!(d, d.options.padding, false),
                M::Conv3dWeightBackward(d) => convolution!(d, d.options.padding.map(|p| (p, p)), false),
                M::ConvTranspose1dWeightBackward(d) => convolution!(d, d.options.padding.map(|p| (p, p)), true),
                M::ConvTranspose2dWeightBackward(d) => convolution!(d, d.options.padding.map(|p| (p, p)), true),
                M::ConvTranspose3dWeightBackward(d) => convolution!(d, d.options.padding.map(|p| (p, p)), true),
                M::Conv1dBiasBackward(d) => self.channels(&d.output_grad, &d.out),
                M::Conv2dBiasBackward(d) => self.channels(&d.output_grad, &d.out),
                M::Conv3dBiasBackward(d) => self.channels(&d.output_grad, &d.out),
                M::ConvTranspose1dBiasBackward(d) => self.channels(&d.output_grad, &d.out),
                M::ConvTranspose2dBiasBackward(d) => self.channels(&d.output_grad, &d.out),
                M::ConvTranspose3dBiasBackward(d) => self.channels(&d.output_grad, &d.out),
                _ => None,
            },
            _ => None,
        }
    }

    /// A sum over `axes`, the sample axis among them.
    fn sum(&mut self, input: &T, axes: &[usize], out: &T, factor: f64) -> Option<Site> {
        let axis = self.axis(input).filter(|a| axes.contains(&a.axis))?;
        let mut rows = self.b.sample_major(input, axis, self.samples);
        for d in axes {
            if rows.shape[d + 1] != 1 {
                rows = self.b.sum_dim(&rows, d + 1);
            }
        }
        if factor != 1.0 {
            rows = self.b.mul_scalar(&rows, factor);
        }
        Some(Site::Formed(self.b.reshape(&rows, &behind(self.samples, &out.shape))))
    }

    /// A product that sums over samples: `[…, d, samples] · […, samples, p]`.
    fn matmul(&mut self, d: &MatmulOpIr) -> Option<Site> {
        let rank = d.out.shape.num_dims();
        let (l, r) = self.both((&d.lhs, rank - 1), (&d.rhs, rank - 2))?;
        let leading = |shape: &Shape| (0..rank - 2).map(|d| shape[d]).collect::<Vec<_>>();
        let heads = leading(&d.lhs.shape);
        let apart = |l: Axis, r: Axis| (l.outer, l.inner) != (r.outer, r.inner);
        if l.axis != rank - 1 || r.axis != rank - 2 || apart(l, r) || heads != leading(&d.rhs.shape) {
            return None;
        }
        let (groups, wide, tall) = (heads.iter().product::<usize>(), d.lhs.shape[rank - 2], d.rhs.shape[rank - 1]);
        let (samples, positions) = (self.samples, l.outer * l.inner);
        let left = match self.turned[index(&d.lhs)].clone() {
            // As it was before it was turned for the product: no copy.
            Some(before) => {
                let rows = self.b.sample_major(&before, Axis { axis: rank - 2, ..l }, samples);
                self.b.reshape(&rows, &Shape::from(vec![samples * groups, positions, wide]))
            }
            None => {
                let columns = self.b.sample_major(&d.lhs, l, samples);
                let columns = self.b.reshape(&columns, &Shape::from(vec![samples * groups, wide, positions]));
                self.b.swap_dims(&columns, 1, 2)
            }
        };
        let right = self.b.sample_major(&d.rhs, r, samples);
        let right = self.b.reshape(&right, &Shape::from(vec![samples * groups, positions, tall]));
        Some(Site::Product(Product::new(left, right, groups, &d.out.shape, None)))
    }

    fn lookup(&mut self, operation: &OperationIr, indices: &T, gradient: &T, axis: Axis) -> Site {
        let size = gradient.shape[gradient.shape.num_dims() - 1];
        let positions = indices.shape.num_elements() / self.samples;
        let again = Again { operation: operation.clone(), cotangent: (gradient.clone(), axis), other: None };
        let indices = self.b.reshape(indices, &Shape::from(vec![self.samples, positions]));
        let gradient = self.b.reshape(gradient, &Shape::from(vec![self.samples, positions, size]));
        Site::Lookup(Lookup { indices, gradient, after: After::none(), again })
    }

    /// The gradient of a convolution's weight `[out, in/groups, kernel…]` from its input and the gradient of its output; of a
    /// transposed one's `[in, out/groups, kernel…]` with the parts of the two exchanged.
    fn convolution(
        &mut self,
        operation: &OperationIr,
        x: &T,
        gradient: &T,
        out: &T,
        window: Window,
        transposed: bool,
    ) -> Option<Site> {
        let (ax, ag) = self.both((x, 0), (gradient, 0))?;
        let first = Axis::FIRST;
        if ax != first || ag != first {
            return None;
        }
        let (windows, plain) = if transposed { (gradient, x) } else { (x, gradient) };
        let groups = window.groups;
        let positions: usize = (2..plain.shape.num_dims()).map(|d| plain.shape[d]).product();
        let unfolded = window.unfold(&mut self.b, windows, &plain.shape);
        let merged = self.samples * groups;
        let columns = Shape::from(vec![merged, unfolded.shape[1] / groups, positions]);
        let right = self.b.reshape(&unfolded, &columns);
        let right = self.b.swap_dims(&right, 1, 2);
        let left = self.b.reshape(plain, &Shape::from(vec![merged, plain.shape[1] / groups, positions]));
        let left = self.b.swap_dims(&left, 1, 2);
        let again =
            Again { operation: operation.clone(), cotangent: (gradient.clone(), ag), other: Some((x.clone(), ax)) };
        let product = Product::new(left, right, groups, &out.shape, Some(again));
        // Formed here where that is smaller: what it is made of is then free.
        Some(match product.is_large() {
            true => Site::Formed(product.formed(&mut self.b, self.samples)),
            false => Site::Product(product),
        })
    }

    /// Whether the host has a kernel for the gradient of each sample, and forming it is what costs least memory.
    fn image_by_image(&self, d: &Conv2dWeightBackwardOpIr) -> bool {
        let (of, o) = (&d.weight.shape, &d.options);
        let positions = d.output_grad.shape[2] * d.output_grad.shape[3];
        let even = o.padding.iter().all(|(before, after)| before == after);
        let known = self.axis(&d.x) == Some(Axis::FIRST) && self.axis(&d.output_grad) == Some(Axis::FIRST);
        self.host
            && known
            && d.x.dtype == DType::F32
            && (o.stride, o.dilation, o.groups) == ([1, 1], [1, 1], 1)
            && even
            && 2 * positions * positions > of.num_elements()
    }

    /// The gradient of each sample as that of one image in as many groups.
    fn images(&mut self, d: &Conv2dWeightBackwardOpIr) -> Site {
        let samples = self.samples;
        let folded = |b: &mut Builder, tensor: &T| {
            let shape = &tensor.shape;
            b.reshape(tensor, &Shape::from(vec![1, samples * shape[1], shape[2], shape[3]]))
        };
        let (x, output_grad) = (folded(&mut self.b, &d.x), folded(&mut self.b, &d.output_grad));
        let of = &d.weight.shape;
        let all = Shape::from(vec![samples * of[0], of[1], of[2], of[3]]);
        // Read for its shape only.
        let zero = self.b.full(&Shape::from(vec![1; 4]), d.weight.dtype, 0.0);
        let weight = self.b.expand(&zero, &all);
        let out = self.b.like(&weight);
        let options = Conv2dOptionsIr { groups: samples, ..d.options.clone() };
        let desc = Conv2dWeightBackwardOpIr { x, weight, output_grad, options, out: out.clone() };
        self.b.push(OperationIr::Module(ModuleOperationIr::Conv2dWeightBackward(desc)));
        Site::Formed(self.b.reshape(&out, &behind(samples, &d.out.shape)))
    }

    /// The gradient of a convolution's bias.
    fn channels(&mut self, gradient: &T, out: &T) -> Option<Site> {
        self.axis(gradient).filter(|a| *a == Axis::FIRST)?;
        let positions: usize = (2..gradient.shape.num_dims()).map(|d| gradient.shape[d]).product();
        let shape = Shape::from(vec![self.samples, gradient.shape[1], positions]);
        let rows = self.b.reshape(gradient, &shape);
        Some(self.formed_sum(&rows, 2, &out.shape))
    }

    /// The sum over one axis of `[samples, …]`, shaped as the result behind the samples.
    fn formed_sum(&mut self, rows: &T, axis: usize, out: &Shape) -> Site {
        let sum = if rows.shape[axis] == 1 { rows.clone() } else { self.b.sum_dim(rows, axis) };
        Site::Formed(self.b.reshape(&sum, &behind(self.samples, out)))
    }

    /// `[samples, positions, last axis]` of a tensor whose last axis does not carry samples.
    fn positions(&mut self, tensor: &T, axis: Axis) -> T {
        let front = self.b.sample_major(tensor, axis, self.samples);
        let last = tensor.shape[tensor.shape.num_dims() - 1];
        let positions = tensor.shape.num_elements() / (self.samples * last.max(1));
        self.b.reshape(&front, &Shape::from(vec![self.samples, positions, last]))
    }

    /// A linear operation behind sums over samples.
    fn after(&mut self, operation: &OperationIr) -> Option<Vec<Site>> {
        use NumericOperationIr as N;
        if let OperationIr::NumericFloat(_, N::Add(d)) = operation
            && d.lhs.shape == d.out.shape
            && d.rhs.shape == d.out.shape
        {
            // A part that is no sum over samples belongs to nobody.
            let mut sites = self.summed[index(&d.lhs)].clone()?;
            sites.extend(self.summed[index(&d.rhs)].clone()?);
            return Some(sites);
        }
        let mut inputs = operation.inputs().filter(|input| self.summed[index(input)].is_some());
        let input = inputs.next()?.clone();
        if inputs.next().is_some() {
            return None;
        }
        let sites = self.summed[index(&input)].clone()?;
        let factor = keeps_norm(operation);
        let moved = sites.into_iter().map(|site| match (site, factor) {
            (Site::Product(product), Some(factor)) => {
                Some(Site::Product(Product { after: product.after.then(operation, factor), ..product }))
            }
            (Site::Lookup(lookup), Some(factor)) => {
                Some(Site::Lookup(Lookup { after: lookup.after.then(operation, factor), ..lookup }))
            }
            (Site::Lookup(_), None) => None,
            (Site::Product(product), None) => {
                let formed = product.formed(&mut self.b, self.samples);
                self.b.sample_wise(operation, &input, &formed).map(Site::Formed)
            }
            (Site::Formed(formed), _) => self.b.sample_wise(operation, &input, &formed).map(Site::Formed),
        });
        moved.collect()
    }

    /// What samples add to the gradient of each leaf.
    fn leaves(&mut self, graph: &Graph) -> Result<Vec<Site>, Refused> {
        let (losses, gradients) = graph.outputs.split_first().expect("the value is the first output");
        if self.axis(losses) != Some(Axis::FIRST) {
            return Err(Refused { operation: "the result".to_string(), reads: vec![index(losses)], leaf: None });
        }
        let mut leaves = Vec::with_capacity(gradients.len());
        for (leaf, gradient) in gradients.iter().enumerate() {
            let refused =
                || Refused { operation: "the gradient".to_string(), reads: vec![index(gradient)], leaf: Some(leaf) };
            let sites = self.summed[index(gradient)].clone().ok_or_else(refused)?;
            leaves.push(merge(&mut self.b, sites, self.samples).ok_or_else(refused)?);
        }
        Ok(leaves)
    }

    fn finish(mut self, graph: &Graph, leaves: Vec<Site>) -> Graph {
        let (losses, gradients) = graph.outputs.split_first().expect("the value is the first output");
        let samples = self.samples;
        let b = &mut self.b;
        let mut outputs = vec![losses.clone()];
        outputs.extend(leaves.iter().map(|site| site.squared_norm(b, samples)));
        let entry =
            |b: &mut Builder, position: usize| b.entry(Shape::new([samples]), losses.dtype, Source::Weight(position));
        let weights: Vec<T> = (0..leaves.len()).map(|leaf| entry(b, leaf)).collect();
        let keep = entry(b, leaves.len());
        for keep in [None, Some(&keep)] {
            for ((site, weights), gradient) in leaves.iter().zip(&weights).zip(gradients) {
                let sum = site.weighted(b, weights, keep, samples);
                let sum = b.reshape(&sum, &gradient.shape);
                outputs.push(b.cast(&sum, gradient.dtype));
            }
        }
        let mut graph = self.b.graph;
        graph.outputs = outputs;
        graph
    }
}

/// All contributions to one leaf as one site.
fn merge(b: &mut Builder, mut sites: Vec<Site>, samples: usize) -> Option<Site> {
    if sites.len() == 1 {
        return sites.pop();
    }
    let products: Vec<&Product> =
        sites.iter().filter_map(|site| if let Site::Product(p) = site { Some(p) } else { None }).collect();
    if let Some(first) = products.first()
        && products.len() == sites.len()
        && products.iter().all(|p| p.again.is_none() && p.alike(first))
    {
        // One product over the positions of all: the steps of a recurrent layer.
        let all = |factor: fn(&Product) -> &T| products.iter().map(|p| factor(p).clone()).collect::<Vec<_>>();
        let (left, right) = (b.cat(all(|p| &p.left), 1), b.cat(all(|p| &p.right), 1));
        let merged = Product { left, right, ..(*first).clone() };
        return Some(match merged.is_large() {
            true => Site::Formed(merged.finished(b, samples)?),
            false => Site::Product(merged),
        });
    }
    let formed = sites.into_iter().map(|site| match site {
        Site::Formed(formed) => Some(formed),
        Site::Product(product) => product.finished(b, samples),
        Site::Lookup(_) => None,
    });
    let formed: Vec<T> = formed.collect::<Option<_>>()?;
    formed.into_iter().reduce(|sum, other| b.add(&sum, &other)).map(Site::Formed)
}

impl Site {
    /// `[samples]`, in `f32` or wider.
    fn squared_norm(&self, b: &mut Builder, samples: usize) -> T {
        let flat = Shape::new([samples]);
        match self {
            Site::Formed(formed) => {
                let rows = b.wide(formed);
                b.squared_rows(&rows, samples)
            }
            Site::Product(product) => {
                let (left, right) = (b.wide(&product.left), b.wide(&product.right));
                let each = samples * product.groups;
                let squares = if left.shape[1] == 1 {
                    let (l, r) = (b.squared_rows(&left, each), b.squared_rows(&right, each));
                    b.mul(&l, &r)
                } else {
                    let (l, r) = (b.gram(&left), b.gram(&right));
                    let products = b.mul(&l, &r);
                    b.row_sums(&products, each)
                };
                let grouped = b.reshape(&squares, &Shape::from(vec![samples, product.groups]));
                let sum = if product.groups == 1 { grouped } else { b.sum_dim(&grouped, 1) };
                let sum = b.reshape(&sum, &flat);
                product.after.scale(b, sum)
            }
            Site::Lookup(lookup) => {
                let gradient = b.wide(&lookup.gradient);
                let positions = gradient.shape[1];
                let squares = if positions == 1 {
                    b.squared_rows(&gradient, samples)
                } else {
                    let gram = b.gram(&gradient);
                    let across = b.reshape(&lookup.indices, &Shape::from(vec![samples, positions, 1]));
                    let along = b.reshape(&lookup.indices, &Shape::from(vec![samples, 1, positions]));
                    let (across, along) = (b.expand_int(&across, &gram.shape), b.expand_int(&along, &gram.shape));
                    let apart = b.not_equal_int(&across, &along);
                    let together = b.mask_fill(&gram, &apart, 0.0);
                    b.row_sums(&together, samples)
                };
                lookup.after.scale(b, squares)
            }
        }
    }

    /// `Σᵢ wᵢ·gradientᵢ`; with `keep`, samples whose flag is 0 are left out whatever they hold.
    fn weighted(&self, b: &mut Builder, weights: &T, keep: Option<&T>, samples: usize) -> T {
        match self {
            Site::Formed(formed) => {
                let size = formed.shape.num_elements() / samples;
                let rows = b.reshape(formed, &Shape::from(vec![samples, size]));
                let rows = b.clear(&rows, keep, Axis::FIRST);
                let weights = b.cast(weights, rows.dtype);
                let weights = b.reshape(&weights, &Shape::from(vec![1, samples]));
                b.matmul(&weights, &rows)
            }
            Site::Product(product) => {
                let sum = match &product.again {
                    Some(again) => again.run(b, weights, keep),
                    None => {
                        let groups = product.groups;
                        let axis = Axis { inner: groups, ..Axis::FIRST };
                        let right = b.weigh(&product.right, weights, keep, axis);
                        let left = b.clear(&product.left, keep, axis);
                        // [samples·groups, positions, d] → [groups, samples·positions, d], a matrix for one group
                        let mut stacked = |factor: &T| {
                            let (positions, size) = (factor.shape[1], factor.shape[2]);
                            if groups == 1 {
                                return b.reshape(factor, &Shape::from(vec![samples * positions, size]));
                            }
                            let split = b.reshape(factor, &Shape::from(vec![samples, groups, positions, size]));
                            let swapped = b.swap_dims(&split, 0, 1);
                            b.reshape(&swapped, &Shape::from(vec![groups, samples * positions, size]))
                        };
                        let (left, right) = (stacked(&left), stacked(&right));
                        let last = left.shape.num_dims() - 1;
                        let left = b.swap_dims(&left, last - 1, last);
                        let sum = b.matmul(&left, &right);
                        b.reshape(&sum, &product.shape)
                    }
                };
                product.after.replay(b, sum)
            }
            Site::Lookup(lookup) => {
                let sum = lookup.again.run(b, weights, keep);
                lookup.after.replay(b, sum)
            }
        }
    }
}

impl Product {
    fn new(left: T, right: T, groups: usize, shape: &Shape, again: Option<Again>) -> Self {
        Self { left, right, groups, shape: shape.clone(), after: After::none(), again }
    }

    /// Whether products of positions take more memory than the weight itself.
    fn is_large(&self) -> bool {
        let positions = self.left.shape[1];
        2 * positions * positions > self.left.shape[2] * self.right.shape[2]
    }

    fn alike(&self, other: &Self) -> bool {
        let sizes = |p: &Self| (p.groups, p.left.shape[2], p.right.shape[2], p.left.dtype);
        let equal = |a: &OperationIr, b: &OperationIr| same_but_tensors(a, b);
        let (mine, theirs) = (&self.after.operations, &other.after.operations);
        sizes(self) == sizes(other)
            && self.shape == other.shape
            && self.after.factor == other.after.factor
            && mine.len() == theirs.len()
            && mine.iter().zip(theirs).all(|(a, b)| equal(a, b))
    }

    /// `[samples, shape]`, before what follows the sum.
    fn formed(&self, b: &mut Builder, samples: usize) -> T {
        let left = b.swap_dims(&self.left, 1, 2);
        let formed = b.matmul(&left, &self.right);
        b.reshape(&formed, &behind(samples, &self.shape))
    }

    /// The same, behind it.
    fn finished(&self, b: &mut Builder, samples: usize) -> Option<T> {
        let formed = self.formed(b, samples);
        let mut operations = self.after.operations.iter();
        operations.try_fold(formed, |formed, operation| {
            let input = operation.inputs().next()?.clone();
            b.sample_wise(operation, &input, &formed)
        })
    }
}

impl Again {
    /// The operation with samples weighted in the cotangent.
    fn run(&self, b: &mut Builder, weights: &T, keep: Option<&T>) -> T {
        let (cotangent, axis) = &self.cotangent;
        let weighted = b.weigh(cotangent, weights, keep, *axis);
        let mut pairs = vec![(cotangent.clone(), weighted)];
        if let (Some((other, axis)), Some(_)) = (&self.other, keep) {
            pairs.push((other.clone(), b.clear(other, keep, *axis)));
        }
        let out = self.operation.outputs().next().expect("an operation has a result");
        let fresh = b.like(out);
        pairs.push((out.clone(), fresh.clone()));
        let mut operation = self.operation.clone();
        operation.visit_mut(&mut Substitute(&pairs));
        b.push(operation);
        fresh
    }
}

impl After {
    fn none() -> Self {
        Self { operations: Vec::new(), factor: 1.0 }
    }

    fn then(mut self, operation: &OperationIr, factor: f64) -> Self {
        self.operations.push(operation.clone());
        self.factor *= factor;
        self
    }

    fn scale(&self, b: &mut Builder, squares: T) -> T {
        match self.factor {
            1.0 => squares,
            factor => b.mul_scalar(&squares, factor * factor),
        }
    }

    /// The operations on another sum.
    fn replay(&self, b: &mut Builder, mut sum: T) -> T {
        for operation in &self.operations {
            let input = operation.inputs().next().expect("it has one input").clone();
            let out = operation.outputs().next().expect("it has one result").clone();
            let fresh = b.like(&out);
            let mut operation = operation.clone();
            operation.visit_mut(&mut Substitute(&[(input, sum), (out, fresh.clone())]));
            b.push(operation);
            sum = fresh;
        }
        sum
    }
}

/// By what a norm is multiplied, for operations of one input that only move and scale.
fn keeps_norm(operation: &OperationIr) -> Option<f64> {
    use BaseOperationIr as B;
    use NumericOperationIr as N;
    match operation {
        OperationIr::BaseFloat(B::Reshape(_) | B::SwapDims(_) | B::Permute(_) | B::Flip(_)) => Some(1.0),
        OperationIr::BaseFloat(B::Cast(d)) if d.out.dtype.is_float() => Some(1.0),
        OperationIr::NumericFloat(_, N::Neg(_)) => Some(1.0),
        OperationIr::NumericFloat(_, N::MulScalar(d)) => Some(d.rhs.elem::<f64>().abs()),
        OperationIr::NumericFloat(_, N::DivScalar(d)) => Some(1.0 / d.rhs.elem::<f64>().abs()),
        _ => None,
    }
}

/// Whether two operations differ in the names of their tensors only.
fn same_but_tensors(a: &OperationIr, b: &OperationIr) -> bool {
    let nameless = |operation: &OperationIr| {
        let mut operation = operation.clone();
        operation.visit_mut(&mut Nameless);
        operation
    };
    nameless(a) == nameless(b)
}

struct Nameless;

impl IrVisitorMut for Nameless {
    fn visit_tensor_mut(&mut self, tensor: &mut T) {
        tensor.id = TensorId::new(0);
    }
}

struct Substitute<'a>(&'a [(T, T)]);

impl IrVisitorMut for Substitute<'_> {
    fn visit_tensor_mut(&mut self, tensor: &mut T) {
        if let Some((_, with)) = self.0.iter().find(|(from, _)| from.id == tensor.id) {
            tensor.id = with.id;
        }
    }
}

/// `[samples, …shape]`
fn behind(samples: usize, shape: &Shape) -> Shape {
    let mut dims = vec![samples];
    dims.extend((0..shape.num_dims()).map(|d| shape[d]));
    Shape::from(dims)
}

/// The windows that a convolution looks through.
struct Window {
    kernel: Vec<usize>,
    stride: Vec<usize>,
    padding: Vec<(usize, usize)>,
    dilation: Vec<usize>,
    groups: usize,
}

impl Window {
    fn new(weight: &Shape, stride: &[usize], padding: &[(usize, usize)], dilation: &[usize], groups: usize) -> Self {
        let kernel = (2..weight.num_dims()).map(|d| weight[d]).collect();
        let (stride, padding, dilation) = (stride.to_vec(), padding.to_vec(), dilation.to_vec());
        Self { kernel, stride, padding, dilation, groups }
    }

    /// `[batch, channels, space…]` to `[batch, channels·kernel, positions]`, for positions of the shape of `at`.
    fn unfold(&self, b: &mut Builder, x: &T, at: &Shape) -> T {
        let space = self.kernel.len();
        let (batch, channels) = (x.shape[0], x.shape[1]);
        let positions: Vec<usize> = (0..space).map(|d| at[d + 2]).collect();
        // Zeros around, as far as the last window reaches.
        let reach = |d: usize| (positions[d].max(1) - 1) * self.stride[d] + (self.kernel[d] - 1) * self.dilation[d] + 1;
        let mut padding = vec![(0, 0); 2];
        padding.extend((0..space).map(|d| {
            let before = self.padding[d].0;
            (before, reach(d).saturating_sub(before + x.shape[d + 2]))
        }));
        let padded = b.pad(x, padding);
        let size: usize = self.kernel.iter().product();
        let count: usize = positions.iter().product();
        let all = Slice { start: 0, end: None, step: 1 };
        let plane = |channels: usize, kernel: usize| Shape::from([&[batch, channels, kernel], &positions[..]].concat());
        // Written window by window into one buffer, in place.
        let mut unfolded = b.full(&plane(channels, size), x.dtype, 0.0);
        for offset in 0..size {
            let mut rest = offset;
            let mut ranges = vec![all; space + 2];
            for d in (0..space).rev() {
                let at = rest % self.kernel[d] * self.dilation[d];
                rest /= self.kernel[d];
                let end = at + (positions[d].max(1) - 1) * self.stride[d] + 1;
                ranges[d + 2] = Slice { start: at as isize, end: Some(end as isize), step: self.stride[d] as isize };
            }
            let view = b.slice(&padded, ranges, Shape::from([&[batch, channels], &positions[..]].concat()));
            let value = b.reshape(&view, &plane(channels, 1));
            let mut place = vec![all; space + 3];
            place[2] = Slice { start: offset as isize, end: Some(offset as isize + 1), step: 1 };
            unfolded = b.slice_assign(&unfolded, place, &value);
        }
        b.reshape(&unfolded, &Shape::from(vec![batch, channels * size, count]))
    }
}

/// Operations that only this rewrite appends.
impl Builder {
    fn matmul(&mut self, lhs: &T, rhs: &T) -> T {
        let rank = lhs.shape.num_dims();
        let mut shape = lhs.shape.clone();
        shape[rank - 1] = rhs.shape[rank - 1];
        let out = self.tensor(shape, lhs.dtype);
        let desc = MatmulOpIr { lhs: lhs.clone(), rhs: rhs.clone(), out: out.clone() };
        self.push(OperationIr::Float(lhs.dtype, FloatOperationIr::Matmul(desc)));
        out
    }

    fn swap_dims(&mut self, input: &T, dim1: usize, dim2: usize) -> T {
        let mut shape = input.shape.clone();
        (shape[dim1], shape[dim2]) = (input.shape[dim2], input.shape[dim1]);
        let out = self.tensor(shape, input.dtype);
        let desc = SwapDimsOpIr { input: input.clone(), out: out.clone(), dim1, dim2 };
        self.push(OperationIr::BaseFloat(BaseOperationIr::SwapDims(desc)));
        out
    }

    /// `[samples, …]` with the axes of the input, that of the samples now holding what it holds of one.
    fn sample_major(&mut self, input: &T, axis: Axis, samples: usize) -> T {
        let (at, rank) = (axis.axis, input.shape.num_dims());
        let sizes = |range: std::ops::Range<usize>| range.map(|d| input.shape[d]).collect::<Vec<_>>();
        let (before, behind) = (sizes(0..at), sizes(at + 1..rank));
        let parts = |middle: &[usize]| Shape::from([&before, middle, &behind].concat());
        let split = self.reshape(input, &parts(&[axis.outer, samples, axis.inner]));
        let moved = if at + axis.outer == 1 {
            split
        } else {
            let axes: Vec<usize> = std::iter::once(at + 1).chain((0..rank + 2).filter(|d| *d != at + 1)).collect();
            let shape: Vec<usize> = axes.iter().map(|d| split.shape[*d]).collect();
            let out = self.tensor(Shape::from(shape), input.dtype);
            let desc = PermuteOpIr { input: split, out: out.clone(), axes };
            self.push(OperationIr::BaseFloat(BaseOperationIr::Permute(desc)));
            out
        };
        let mut shape = vec![samples];
        shape.extend([&before[..], &[axis.outer * axis.inner], &behind].concat());
        self.reshape(&moved, &Shape::from(shape))
    }

    fn cat(&mut self, tensors: Vec<T>, dim: usize) -> T {
        let mut shape = tensors[0].shape.clone();
        shape[dim] = tensors.iter().map(|tensor| tensor.shape[dim]).sum();
        let out = self.tensor(shape, tensors[0].dtype);
        self.push(OperationIr::BaseFloat(BaseOperationIr::Cat(CatOpIr { tensors, dim, out: out.clone() })));
        out
    }

    fn slice(&mut self, tensor: &T, ranges: Vec<Slice>, shape: Shape) -> T {
        let out = self.tensor(shape, tensor.dtype);
        let desc = SliceOpIr { tensor: tensor.clone(), ranges, out: out.clone() };
        self.push(OperationIr::BaseFloat(BaseOperationIr::Slice(desc)));
        out
    }

    fn slice_assign(&mut self, tensor: &T, ranges: Vec<Slice>, value: &T) -> T {
        let out = self.like(tensor);
        let desc = SliceAssignOpIr { tensor: tensor.clone(), ranges, value: value.clone(), out: out.clone() };
        self.push(OperationIr::BaseFloat(BaseOperationIr::SliceAssign(desc)));
        out
    }

    fn pad(&mut self, input: &T, padding: Vec<(usize, usize)>) -> T {
        if padding.iter().all(|pad| *pad == (0, 0)) {
            return input.clone();
        }
        let mut shape = input.shape.clone();
        for (d, (before, after)) in padding.iter().enumerate() {
            shape[d] += before + after;
        }
        let out = self.tensor(shape, input.dtype);
        let mode = PadModeIr::Constant(ScalarIr::Float(0.0));
        let desc = PadOpIr { input: input.clone(), out: out.clone(), padding, mode };
        self.push(OperationIr::NumericFloat(input.dtype, NumericOperationIr::Pad(desc)));
        out
    }

    fn cast(&mut self, input: &T, dtype: DType) -> T {
        if input.dtype == dtype {
            return input.clone();
        }
        let out = self.tensor(input.shape.clone(), dtype);
        let desc = CastOpIr { input: input.clone(), out: out.clone() };
        self.push(OperationIr::BaseFloat(BaseOperationIr::Cast(desc)));
        out
    }

    /// Half precision in `f32`, others as they are.
    fn wide(&mut self, input: &T) -> T {
        match input.dtype {
            DType::F16 | DType::BF16 | DType::Flex32 => self.cast(input, DType::F32),
            _ => input.clone(),
        }
    }

    fn expand_int(&mut self, input: &T, shape: &Shape) -> T {
        let out = self.tensor(shape.clone(), input.dtype);
        let desc = ShapeOpIr { input: input.clone(), out: out.clone() };
        self.push(OperationIr::BaseInt(BaseOperationIr::Expand(desc)));
        out
    }

    fn not_equal_int(&mut self, lhs: &T, rhs: &T) -> T {
        let out = self.tensor(lhs.shape.clone(), DType::Bool(BoolStore::Native));
        let desc = BinaryOpIr { lhs: lhs.clone(), rhs: rhs.clone(), out: out.clone() };
        self.push(OperationIr::BaseInt(BaseOperationIr::NotEqual(desc)));
        out
    }

    /// Sums of `rows` equal parts.
    fn row_sums(&mut self, x: &T, rows: usize) -> T {
        let size = x.shape.num_elements() / rows.max(1);
        let flat = self.reshape(x, &Shape::from(vec![rows, size]));
        let sums = if size == 1 { flat } else { self.sum_dim(&flat, 1) };
        self.reshape(&sums, &Shape::new([rows]))
    }

    fn squared_rows(&mut self, x: &T, rows: usize) -> T {
        let squares = self.square(x);
        self.row_sums(&squares, rows)
    }

    /// `x·xᵀ` of each matrix.
    fn gram(&mut self, x: &T) -> T {
        let turned = self.swap_dims(x, 1, 2);
        self.matmul(x, &turned)
    }

    /// A number for each sample, shaped to broadcast over `like`, whose samples are along `axis`.
    fn for_samples(&mut self, numbers: &T, like: &T, axis: Axis) -> T {
        let samples = numbers.shape[0];
        let numbers = self.reshape(numbers, &Shape::from(vec![1, samples, 1]));
        let numbers = self.expand(&numbers, &Shape::from(vec![axis.outer, samples, axis.inner]));
        let mut shape = vec![1; like.shape.num_dims()];
        shape[axis.axis] = like.shape[axis.axis];
        self.reshape(&numbers, &Shape::from(shape))
    }

    /// Zero in the samples whose flag is 0.
    fn clear(&mut self, x: &T, keep: Option<&T>, axis: Axis) -> T {
        let Some(keep) = keep else { return x.clone() };
        let keep = self.for_samples(keep, x, axis);
        let keep = self.expand(&keep, &x.shape);
        let gone = self.lower_elem(&keep, 0.5);
        self.mask_fill(x, &gone, 0.0)
    }

    /// Samples times their weights, cleared first.
    fn weigh(&mut self, x: &T, weights: &T, keep: Option<&T>, axis: Axis) -> T {
        let x = self.clear(x, keep, axis);
        let weights = self.cast(weights, x.dtype);
        let weights = self.for_samples(&weights, &x, axis);
        self.mul(&x, &weights)
    }

    /// A linear operation on a sum, applied to what each sample adds to it; `None` where there is no rule.
    fn sample_wise(&mut self, operation: &OperationIr, input: &T, formed: &T) -> Option<T> {
        use BaseOperationIr as B;
        use NumericOperationIr as N;
        let samples = formed.shape[0];
        let out = operation.outputs().next()?;
        let fresh = self.tensor(behind(samples, &out.shape), out.dtype);
        let (x, y) = (formed.clone(), fresh.clone());
        let base = OperationIr::BaseFloat;
        let moved = match operation {
            OperationIr::BaseFloat(op) => match op {
                B::Reshape(_) => base(B::Reshape(ShapeOpIr { input: x, out: y })),
                B::Expand(d) if d.input.shape.num_dims() == d.out.shape.num_dims() => {
                    base(B::Expand(ShapeOpIr { input: x, out: y }))
                }
                B::SwapDims(d) => {
                    base(B::SwapDims(SwapDimsOpIr { input: x, out: y, dim1: d.dim1 + 1, dim2: d.dim2 + 1 }))
                }
                B::Permute(d) => {
                    let axes = std::iter::once(0).chain(d.axes.iter().map(|axis| axis + 1)).collect();
                    base(B::Permute(PermuteOpIr { input: x, out: y, axes }))
                }
                B::Slice(d) => {
                    let all = Slice { start: 0, end: None, step: 1 };
                    let ranges = std::iter::once(all).chain(d.ranges.iter().copied()).collect();
                    base(B::Slice(SliceOpIr { tensor: x, ranges, out: y }))
                }
                B::Cast(d) if d.out.dtype.is_float() => base(B::Cast(CastOpIr { input: x, out: y })),
                _ => return None,
            },
            OperationIr::NumericFloat(dtype, op) => OperationIr::NumericFloat(
                *dtype,
                match op {
                    N::Neg(_) => N::Neg(UnaryOpIr { input: x, out: y }),
                    N::MulScalar(d) => N::MulScalar(ScalarOpIr { lhs: x, rhs: d.rhs, out: y }),
                    N::DivScalar(d) => N::DivScalar(ScalarOpIr { lhs: x, rhs: d.rhs, out: y }),
                    N::SumDim(d) => N::SumDim(ReduceDimOpIr {
                        input: x,
                        out: y,
                        axis: d.axis + 1,
                        accumulator_len: d.accumulator_len,
                    }),
                    N::MeanDim(d) => N::MeanDim(ReduceDimOpIr {
                        input: x,
                        out: y,
                        axis: d.axis + 1,
                        accumulator_len: d.accumulator_len,
                    }),
                    N::SumDims(d) => N::SumDims(ReduceDimsOpIr {
                        input: x,
                        out: y,
                        axes: d.axes.iter().map(|axis| axis + 1).collect(),
                    }),
                    N::Sum(_) => {
                        let sums = self.row_sums(formed, samples);
                        return Some(self.reshape(&sums, &behind(samples, &out.shape)));
                    }
                    N::Mul(d) => {
                        let other = if d.lhs.id == input.id { &d.rhs } else { &d.lhs };
                        let other = self.reshape(other, &behind(1, &other.shape));
                        N::Mul(BinaryOpIr { lhs: x, rhs: other, out: y })
                    }
                    N::Div(d) if d.lhs.id == input.id => {
                        let other = self.reshape(&d.rhs, &behind(1, &d.rhs.shape));
                        N::Div(BinaryOpIr { lhs: x, rhs: other, out: y })
                    }
                    _ => return None,
                },
            ),
            _ => return None,
        };
        self.push(moved);
        Some(fresh)
    }
}
