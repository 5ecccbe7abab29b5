//! The state of a transform as plain named values.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, Device, TensorData};
use burn_pack::{Reader, Scalar as PackScalar, Writer};

use crate::tree::{elements, read_pack, unpack, write_pack};
use crate::{Error, Result, Tree};

/// Named numbers, lists and trees: what a transform has to remember.
///
/// Built with [`with`](State::with), taken apart with [`take`](State::take), saved in Burn's
/// burnpack format and loaded **bit for bit** (NaN payloads and signs of zero included). States nest
/// under a name, which is how a [`Chain`](super::Chain) keeps those of its transforms.
///
/// ```
/// use core_tensor::transform::State;
///
/// let mut state = State::new().with("count", 3u64).with("history", vec![0.5, 0.25]);
/// let history: Vec<f64> = state.take("history")?;
/// assert_eq!((state.take::<u64>("count")?, history.len()), (3, 2));
/// assert!(state.take::<f64>("scale").is_err());
/// state.finish()?;
/// # Ok::<(), core_tensor::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct State {
    entries: BTreeMap<String, Value>,
}

/// One entry of a [`State`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Value {
    /// A switch.
    Bool(bool),
    /// A counter.
    U64(u64),
    /// A signed integer.
    I64(i64),
    /// A number.
    F64(f64),
    /// A list of numbers.
    F64s(Vec<f64>),
    /// A list of words, such as the state of a random generator.
    U64s(Vec<u64>),
    /// A tree, sharing its buffers.
    Tree(Tree),
}

impl State {
    /// The state of what has none.
    pub fn new() -> Self {
        Self::default()
    }

    /// The state with one more entry. `None` adds nothing.
    pub fn with(mut self, name: impl Into<String>, value: impl IntoValue) -> Self {
        if let Some(value) = value.into_value() {
            self.entries.insert(name.into(), value);
        }
        self
    }

    /// The state with all entries of another one, their names prefixed by `name/`.
    pub fn with_nested(mut self, name: &str, state: State) -> Self {
        let entries = state.entries.into_iter();
        let entries = entries.map(|(key, value)| (format!("{name}/{key}"), value));
        self.entries.extend(entries);
        self
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Take an entry out.
    ///
    /// # Errors
    /// [`Error::State`] if it is missing or of another type.
    pub fn take<T: FromValue>(&mut self, name: &str) -> Result<T> {
        self.take_optional(name)?.ok_or_else(|| Error::State {
            entry: name.to_string(),
            found: "missing",
            expected: T::EXPECTED,
        })
    }

    /// Take an entry out if it is there.
    ///
    /// # Errors
    /// [`Error::State`] if it is of another type.
    pub fn take_optional<T: FromValue>(&mut self, name: &str) -> Result<Option<T>> {
        let Some(value) = self.entries.remove(name) else {
            return Ok(None);
        };
        let found = value.kind();
        match T::from_value(value) {
            Some(value) => Ok(Some(value)),
            None => Err(Error::State { entry: name.to_string(), found, expected: T::EXPECTED }),
        }
    }

    /// Take out all entries whose names start with `name/`, as a state of their own.
    pub fn take_nested(&mut self, name: &str) -> State {
        let prefix = format!("{name}/");
        let entries = std::mem::take(&mut self.entries);
        let (nested, rest) = entries.into_iter().partition(|(key, _)| key.starts_with(&prefix));
        self.entries = rest;
        let nested: BTreeMap<String, Value> = nested;
        let entries = nested.into_iter().map(|(key, value)| (key[prefix.len()..].to_string(), value));
        State { entries: entries.collect() }
    }

    /// Check that nothing is left: the last line of a `load_state`.
    ///
    /// # Errors
    /// [`Error::State`] naming an entry that no one took.
    pub fn finish(self) -> Result<()> {
        match self.entries.into_iter().next() {
            None => Ok(()),
            Some((entry, value)) => Err(Error::State { entry, found: value.kind(), expected: "nothing of this name" }),
        }
    }

    /// Save to a file, replacing it in one step. One host synchronisation a tree.
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        write_pack(self.pack(vec![]), path.as_ref())
    }

    /// Load from a file, trees onto `device`.
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be read or holds anything but a state.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let path = path.as_ref();
        let (state, others) = Self::unpack(read_pack(path)?, path, device)?;
        match others.first() {
            None => Ok(state),
            Some(other) => Err(Error::read(path, format_args!("unknown entry `{}`", other.name))),
        }
    }

    /// A burnpack file of this state and further tensors.
    pub(crate) fn pack(&self, mut tensors: Vec<burn_pack::Tensor>) -> Writer {
        let mut scalars = vec![];
        for (key, value) in &self.entries {
            let mut list = |kind: &str, data: TensorData| {
                let (bytes, shape, dtype) = data.into_parts();
                let name = format!("{kind}/{key}");
                tensors.push(burn_pack::Tensor::new(name, dtype, shape, None, bytes));
            };
            match value {
                Value::Bool(x) => scalars.push((format!("bool/{key}"), PackScalar::from(*x))),
                Value::U64(x) => scalars.push((format!("u64/{key}"), PackScalar::from(*x))),
                Value::I64(x) => scalars.push((format!("i64/{key}"), PackScalar::from(*x))),
                // As bits: a text encoding may lose the payload of NaN.
                Value::F64(x) => {
                    scalars.push((format!("f64/{key}"), PackScalar::from(x.to_bits())));
                }
                Value::F64s(x) => list("f64s", TensorData::new(x.clone(), [x.len()])),
                Value::U64s(x) => list("u64s", TensorData::new(x.clone(), [x.len()])),
                Value::Tree(tree) => {
                    scalars.push((format!("tree/{key}"), PackScalar::from(tree.len())));
                    tensors.extend(tree.pack(|i, name| leaf_key(key, i, &name.path)));
                }
            }
        }
        let writer = Writer::new(tensors);
        scalars.iter().fold(writer, |writer, (key, value)| writer.with_scalar(key, *value))
    }

    /// The state in a burnpack file, and the tensors that are none of it.
    pub(crate) fn unpack(reader: Reader, path: &Path, device: &Device) -> Result<(Self, Vec<burn_pack::Tensor>)> {
        let bad = |key: &str| Error::read(path, format_args!("malformed entry `{key}`"));
        let scalars = reader.scalars().clone();
        let tensors = reader.into_tensors().map_err(|e| Error::read(path, e))?;
        let mut tensors: BTreeMap<String, burn_pack::Tensor> =
            tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
        let mut state = State::new();
        for (key, scalar) in scalars {
            let (kind, name) = key.split_once('/').ok_or_else(|| bad(&key))?;
            let value = match (kind, scalar) {
                ("bool", PackScalar::Bool(x)) => Value::Bool(x),
                ("u64", PackScalar::UInt(x)) => Value::U64(x),
                ("i64", PackScalar::Int(x)) => Value::I64(x),
                ("f64", PackScalar::UInt(x)) => Value::F64(f64::from_bits(x)),
                ("tree", PackScalar::UInt(length)) => {
                    let mut leaves = vec![];
                    for index in 0..length {
                        let prefix = leaf_key(name, index as usize, "");
                        let range = tensors.range(prefix.clone()..);
                        let found = range.map(|(key, _)| key.clone()).next();
                        let found = found.filter(|key| key.starts_with(&prefix));
                        let tensor = found.and_then(|key| tensors.remove(&key));
                        let tensor = tensor.ok_or_else(|| bad(&prefix))?;
                        let leaf = tensor.name[prefix.len()..].to_string();
                        leaves.push(unpack(tensor, leaf, device).map_err(|e| e.at(path))?);
                    }
                    Value::Tree(Tree::from_leaves(leaves)?)
                }
                _ => return Err(bad(&key)),
            };
            state.entries.insert(name.to_string(), value);
        }
        let mut others = vec![];
        for (key, tensor) in tensors {
            let (kind, name) = key.split_once('/').unwrap_or((&key, ""));
            if !matches!(kind, "f64s" | "u64s") {
                others.push(tensor);
                continue;
            }
            let (_, dtype, _, _, bytes) = tensor.into_parts().map_err(|e| Error::read(path, e))?;
            let value = match (kind, dtype) {
                ("f64s", DType::F64) => Value::F64s(elements(&bytes, f64::from_le_bytes)),
                ("u64s", DType::U64) => Value::U64s(elements(&bytes, u64::from_le_bytes)),
                _ => return Err(bad(&key)),
            };
            state.entries.insert(name.to_string(), value);
        }
        Ok((state, others))
    }
}

/// Bit for bit: two NaN with the same bits are equal, 0 and -0 are not. Trees are read back for
/// this: one host synchronisation each.
impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        let pairs = self.entries.iter().zip(&other.entries);
        self.entries.len() == other.entries.len() && pairs.into_iter().all(|((a, x), (b, y))| a == b && x.same_bits(y))
    }
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => bool::EXPECTED,
            Self::U64(_) => u64::EXPECTED,
            Self::I64(_) => i64::EXPECTED,
            Self::F64(_) => f64::EXPECTED,
            Self::F64s(_) => <Vec<f64>>::EXPECTED,
            Self::U64s(_) => <Vec<u64>>::EXPECTED,
            Self::Tree(_) => Tree::EXPECTED,
        }
    }

    fn same_bits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bool(x), Self::Bool(y)) => x == y,
            (Self::U64(x), Self::U64(y)) => x == y,
            (Self::I64(x), Self::I64(y)) => x == y,
            (Self::F64(x), Self::F64(y)) => x.to_bits() == y.to_bits(),
            (Self::F64s(x), Self::F64s(y)) => {
                let bits = |x: &[f64]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                bits(x) == bits(y)
            }
            (Self::U64s(x), Self::U64s(y)) => x == y,
            (Self::Tree(x), Self::Tree(y)) => x.names() == y.names() && x.to_data() == y.to_data(),
            _ => false,
        }
    }
}

/// What a [`State`] can hold.
pub trait IntoValue {
    /// The entry; `None` for none.
    fn into_value(self) -> Option<Value>;
}

/// What can be taken from a [`State`].
pub trait FromValue: Sized {
    /// What is expected, for messages.
    const EXPECTED: &'static str;
    /// The value, if it is of this type.
    fn from_value(value: Value) -> Option<Self>;
}

macro_rules! value {
    ($($type:ty, $variant:ident, $what:literal;)*) => {$(
        impl IntoValue for $type {
            fn into_value(self) -> Option<Value> {
                Some(Value::$variant(self))
            }
        }
        impl FromValue for $type {
            const EXPECTED: &'static str = $what;
            fn from_value(value: Value) -> Option<Self> {
                match value {
                    Value::$variant(value) => Some(value),
                    _ => None,
                }
            }
        }
    )*};
}

value! {
    bool, Bool, "a switch (bool)";
    u64, U64, "a counter (u64)";
    i64, I64, "an integer (i64)";
    f64, F64, "a number (f64)";
    Vec<f64>, F64s, "a list of numbers (f64)";
    Vec<u64>, U64s, "a list of words (u64)";
    Tree, Tree, "a tree";
}

impl<T: IntoValue> IntoValue for Option<T> {
    fn into_value(self) -> Option<Value> {
        self.and_then(T::into_value)
    }
}

/// The name of a leaf's tensor in a file: sorted by position, and unambiguous whatever characters
/// names hold, for the length of the entry's name is part of it.
fn leaf_key(entry: &str, index: usize, path: &str) -> String {
    format!("tree/{}:{entry}/{index:08}/{path}", entry.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::ParamId;
    use burn::tensor::Tensor;

    fn sample(device: &Device) -> State {
        let odd_nan = f64::from_bits(0x7ff8_0000_dead_beef);
        let tensor = Tensor::<2>::from_data([[f32::NAN, -0.0], [1e-40, 3.0]], device);
        let mut leaves: Vec<_> = Tree::empty()
            .push("z", tensor)
            .unwrap()
            .push("a/b 1", Tensor::<1>::from_data([f32::INFINITY], device))
            .unwrap()
            .into_leaves()
            .collect();
        leaves[0].0.id = Some(ParamId::from(77));
        let inner = State::new().with("x", f64::NEG_INFINITY).with("-", -5i64);
        State::new()
            .with("on", true)
            .with("count", u64::MAX)
            .with("scale", odd_nan)
            .with("zero", -0.0)
            .with("history", vec![odd_nan, 1.0, f64::MIN_POSITIVE / 3.0])
            .with("none", Vec::<f64>::new())
            .with("words", vec![1, u64::MAX])
            .with("ten", Tree::empty())
            .with("tenth", Tree::from_leaves(leaves).unwrap())
            .with("absent", None::<Tree>)
            .with_nested("0/inner", inner)
    }

    #[test]
    fn a_file_keeps_every_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.bpk");
        for device in crate::testing::host_devices() {
            let state = sample(&device);
            state.save(&path).unwrap();
            let loaded = State::load(&path, &device).unwrap();
            assert_eq!(state, loaded);
            assert_ne!(state, loaded.with("zero", 0.0));
        }
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
    }

    #[test]
    fn wrong_entries_are_named() {
        let mut state = State::new().with("count", 1u64);
        assert_eq!(
            state.clone().take::<f64>("count").unwrap_err().to_string(),
            "state entry `count` is a counter (u64), expected a number (f64)"
        );
        assert_eq!(
            state.take::<bool>("on").unwrap_err().to_string(),
            "state entry `on` is missing, expected a switch (bool)"
        );
        assert_eq!(
            state.finish().unwrap_err().to_string(),
            "state entry `count` is a counter (u64), expected nothing of this name"
        );
    }

    #[test]
    fn nested_states_come_back_apart() {
        let device = Device::flex();
        let mut state = sample(&device);
        let mut inner = state.take_nested("0").take_nested("inner");
        assert_eq!(inner.take::<i64>("-").unwrap(), -5);
        assert_eq!(inner.take::<f64>("x").unwrap(), f64::NEG_INFINITY);
        inner.finish().unwrap();
        assert!(state.take_nested("0").is_empty());
    }

    #[test]
    fn broken_files_are_errors_that_name_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.bpk");
        let device = Device::flex();
        let message = |path: &Path| State::load(path, &device).unwrap_err().to_string();
        assert!(message(&path).contains("state.bpk"));
        sample(&device).save(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for length in [0, 5, 40, bytes.len() - 700] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            assert!(message(&path).contains("state.bpk"), "{length}");
        }
        // A file of another kind: a tree.
        let tree = Tree::empty().push("w", Tensor::<1>::from_data([1.0], &device));
        tree.unwrap().save(&path).unwrap();
        assert!(message(&path).contains("position/w"));
        // A folder that is not there.
        let missing = folder.path().join("no").join("state.bpk");
        let error = sample(&device).save(&missing).unwrap_err().to_string();
        assert!(error.starts_with("cannot write") && error.contains("state.bpk"));
    }
}
