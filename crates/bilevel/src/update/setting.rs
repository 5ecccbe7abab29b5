//! A number of an update that is fixed or learned.

use burn::tensor::Tensor;
use core_tensor::{LeafName, Tree};

use crate::parameterise::Domain;

/// A hyper-parameter of an inner update: a fixed number, or a leaf of the outer variable.
///
/// | made by | is | leaf's shape |
/// |---|---|---|
/// | [`fixed`](Setting::fixed) | a constant | – |
/// | [`leaf`](Setting::leaf) | one number for everything | `[1]` |
/// | [`per_step`](Setting::per_step) | a number a step | `[steps]` |
/// | [`per_leaf`](Setting::per_leaf) | a leaf of its own for each leaf of `z`, by a function of its name | `[1]` |
/// | [`per_feature`](Setting::per_feature) | a number a row of each leaf of `z`, such as an input feature of a weight | `[rows]` |
/// | [`per_element`](Setting::per_element) | a number an element of `z` (Meta-SGD) | that of the leaf of `z` |
///
/// Behind [`exp`](Setting::exp) the leaf is the logarithm, behind [`sigmoid`](Setting::sigmoid) the logit, which keeps rates positive and
/// momenta within `(0, 1)`; [`within`](Setting::within) takes any other [`Domain`].
#[derive(Clone)]
pub struct Setting {
    source: Source,
    domain: Domain,
}

type Path = std::sync::Arc<dyn Fn(&LeafName) -> String + Send + Sync>;

#[derive(Clone)]
enum Source {
    Fixed(f64),
    Leaf(String),
    PerStep(String),
    PerLeaf(Path),
    PerFeature(String),
    PerElement(String),
}

impl From<f64> for Setting {
    fn from(value: f64) -> Self {
        Self::fixed(value)
    }
}

impl Setting {
    /// A constant.
    pub fn fixed(value: f64) -> Self {
        Self { source: Source::Fixed(value), domain: Domain::Real }
    }

    /// The leaf of `x` at this path, shape `[1]`.
    pub fn leaf(path: impl Into<String>) -> Self {
        Self { source: Source::Leaf(path.into()), domain: Domain::Real }
    }

    /// One element of the leaf at this path for each step, shape `[steps]`; later steps get 0.
    pub fn per_step(path: impl Into<String>) -> Self {
        Self { source: Source::PerStep(path.into()), domain: Domain::Real }
    }

    /// The leaf whose path the function gives, shape `[1]`: groups of parameters share what the function gives alike.
    pub fn per_leaf(path: impl Fn(&LeafName) -> String + Send + Sync + 'static) -> Self {
        Self { source: Source::PerLeaf(std::sync::Arc::new(path)), domain: Domain::Real }
    }

    /// The leaf `prefix/path` for the leaf `path` of `z`, with a number for each index of its first dimension.
    pub fn per_feature(prefix: impl Into<String>) -> Self {
        Self { source: Source::PerFeature(prefix.into()), domain: Domain::Real }
    }

    /// The leaf `prefix/path` for the leaf `path` of `z`, of the same shape.
    pub fn per_element(prefix: impl Into<String>) -> Self {
        Self { source: Source::PerElement(prefix.into()), domain: Domain::Real }
    }

    /// The exponential of the leaf.
    pub fn exp(self) -> Self {
        self.within(Domain::Positive)
    }

    /// The logistic function of the leaf.
    pub fn sigmoid(self) -> Self {
        self.within(Domain::unit())
    }

    /// The leaf mapped to a domain. A simplex is that of the whole leaf.
    pub fn within(self, domain: Domain) -> Self {
        Self { domain, ..self }
    }

    /// The setting times a tree of the structure of `z`.
    ///
    /// # Errors
    /// A leaf that is not in `x`, or has another shape.
    pub fn times(&self, x: &Tree, tree: Tree, step: &Tensor<1>) -> core_tensor::Result<Tree> {
        if let Source::Fixed(value) = self.source {
            return Ok(tree.scale(value));
        }
        let mut failed = None;
        let scaled = tree.map_flat(|name, leaf| match self.value(x, name, leaf.dims()[0], step) {
            Ok(factor) => leaf * factor,
            Err(error) => {
                failed = Some(error);
                leaf
            }
        })?;
        match failed {
            None => Ok(scaled),
            Some(error) => Err(error),
        }
    }

    /// The factor for one leaf, of shape `[1]` or `[elements]`.
    fn value(&self, x: &Tree, name: &LeafName, length: usize, step: &Tensor<1>) -> core_tensor::Result<Tensor<1>> {
        let value = match &self.source {
            Source::Fixed(_) => unreachable!("handled by the caller"),
            Source::Leaf(path) => x.get::<1>(path)?,
            Source::PerLeaf(path) => x.get::<1>(&path(name))?,
            Source::PerFeature(prefix) => {
                let path = format!("{prefix}/{}", name.path);
                let rows = x.get::<1>(&path)?;
                let count = rows.dims()[0];
                if count == 0 || !length.is_multiple_of(count) {
                    return Err(core_tensor::Error::Shape { path, left: vec![count], right: vec![length] });
                }
                let each = self.domain.map(rows).unsqueeze_dim::<2>(1).expand([count, length / count]);
                return Ok(each.reshape([length]));
            }
            Source::PerElement(prefix) => {
                let path = format!("{prefix}/{}", name.path);
                let only = x.filter(|name| name.path == path);
                let mut found = None;
                only.map_flat(|_, leaf| {
                    found = Some(leaf.clone());
                    leaf
                })?;
                found.ok_or(core_tensor::Error::UnknownLeaf { path, place: "the outer variable" })?
            }
            Source::PerStep(path) => {
                let all = x.get::<1>(path)?;
                let steps = all.dims()[0];
                let numbers: Vec<f64> = (0..steps).map(|i| i as f64).collect();
                let data = burn::tensor::TensorData::new(numbers, [steps]);
                let numbers = Tensor::<1>::from_data(data, (&all.device(), all.dtype()));
                let here = numbers.equal(step.clone().expand([steps])).float().cast(all.dtype());
                return Ok((self.domain.map(all) * here).sum());
            }
        };
        let found = value.dims()[0];
        if found != 1 && found != length {
            let path = name.path.clone();
            return Err(core_tensor::Error::Shape { path, left: vec![found], right: vec![length] });
        }
        Ok(self.domain.map(value))
    }
}
