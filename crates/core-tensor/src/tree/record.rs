//! Trees in files, in Burn's burnpack format.
//!
//! A saved tree is a module record: Burn's `ModuleRecord::load` reads it. Leaf order, which records
//! do not keep, is stored beside the tensors. Values are kept bit for bit.

use std::path::Path;
use std::sync::Arc;

use burn::backend::Dispatch;
use burn::backend::ops::FloatTensorOps;
use burn::module::ParamId;
use burn::tensor::{DType, Device, TensorData, Transaction, bf16, f16};
use burn_pack::{Reader, Scalar, Writer};

use super::{LeafName, Tree};
use crate::{Error, Result, kernels};

/// Prefix of the scalars that keep the position of each leaf.
const POSITION: &str = "position/";

/// # Files
/// In Burn's burnpack format. A saved tree is a module record, which Burn's `ModuleRecord::load`
/// reads; the order of leaves, which records do not keep, is stored beside the tensors.
impl Tree {
    /// Save to a file, replacing it in one step: the file is complete or as it was. One host
    /// synchronisation. The path is used as given; Burn's extension is `.bpk`.
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let positions = self.names().iter().enumerate();
        let mut writer = Writer::new(self.pack(|_, name| name.path.clone()));
        for (position, name) in positions {
            let key = format!("{POSITION}{}", name.path);
            writer = writer.with_scalar(&key, Scalar::from(position));
        }
        write_pack(writer, path)
    }

    /// Load from a file, in the order saved; a module record saved by Burn is in alphabetical
    /// order. Leaves keep the dtype and the parameter id they were saved with.
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be read or is not a burnpack file, [`Error::NotFloat`] if
    /// it holds tensors other than float ones.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let path = path.as_ref();
        let reader = read_pack(path)?;
        let positions = reader.scalars().clone();
        let tensors = reader.into_tensors().map_err(|e| Error::read(path, e))?;
        let mut leaves = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            let name = tensor.name.clone();
            let position = positions.get(&format!("{POSITION}{name}"));
            let position = position.and_then(|&p| usize::try_from(p).ok());
            leaves.push((position, unpack(tensor, name, device).map_err(|e| e.at(path))?));
        }
        leaves.sort_by_key(|(position, _)| *position);
        let (names, leaves) = leaves.into_iter().map(|(_, leaf)| leaf).unzip();
        Ok(Self::from_parts(Arc::new(names), leaves))
    }

    /// The values of all leaves on the host. One host synchronisation.
    pub fn to_data(&self) -> Vec<(String, TensorData)> {
        let names = self.names().iter().map(|name| name.path.clone());
        names.zip(self.data()).collect()
    }

    /// The leaves as burnpack entries.
    pub(crate) fn pack(&self, key: impl Fn(usize, &LeafName) -> String) -> Vec<burn_pack::Tensor> {
        let leaves = self.names().iter().zip(self.data()).enumerate();
        leaves
            .map(|(index, (name, data))| {
                let (bytes, shape, dtype) = data.into_parts();
                let id = name.id.map(|id| id.val());
                burn_pack::Tensor::new(key(index, name), dtype, shape, id, bytes)
            })
            .collect()
    }

    fn data(&self) -> Vec<TensorData> {
        let vectors = self.leaves().iter().cloned().map(kernels::flat);
        let read = vectors.fold(Transaction::default(), |read, x| read.register(x));
        let shapes = self.iter().map(|(_, leaf)| burn::backend::TensorMetadata::shape(leaf));
        let data = read.execute().into_iter().zip(shapes);
        data.map(|(data, shape)| {
            let (bytes, _, dtype) = data.into_parts();
            TensorData::from_bytes(bytes, shape, dtype)
        })
        .collect()
    }
}

/// What is wrong with an entry of a burnpack file.
pub(crate) enum Flaw {
    Format(burn_pack::Error),
    Error(Error),
}

impl Flaw {
    pub(crate) fn at(self, path: &Path) -> Error {
        match self {
            Self::Format(error) => Error::read(path, error),
            Self::Error(error) => error,
        }
    }
}

/// A burnpack entry as a leaf called `name`.
pub(crate) fn unpack(
    tensor: burn_pack::Tensor,
    name: String,
    device: &Device,
) -> Result<(LeafName, burn::backend::DispatchTensor), Flaw> {
    let (_, dtype, shape, id, bytes) = tensor.into_parts().map_err(Flaw::Format)?;
    let name = LeafName { path: name, id: id.map(ParamId::from) };
    // In memory of its own: the file may be replaced while the tensor is in use.
    let data = match dtype {
        DType::F64 => TensorData::new(elements(&bytes, f64::from_le_bytes), shape),
        DType::F32 => TensorData::new(elements(&bytes, f32::from_le_bytes), shape),
        DType::F16 => TensorData::new(elements(&bytes, f16::from_le_bytes), shape),
        DType::BF16 => TensorData::new(elements(&bytes, bf16::from_le_bytes), shape),
        _ => {
            return Err(Flaw::Error(Error::NotFloat { path: name.path, dtype }));
        }
    };
    let device = device.clone().without_autodiff();
    Ok((name, Dispatch::float_from_data(data, device.as_dispatch())))
}

/// Little-endian bytes as numbers.
pub(crate) fn elements<E, const N: usize>(bytes: &[u8], from: impl Fn([u8; N]) -> E) -> Vec<E> {
    let (elements, _) = bytes.as_chunks::<N>();
    elements.iter().map(|&bytes| from(bytes)).collect()
}

/// Write a burnpack file by way of a temporary one beside it.
pub(crate) fn write_pack(writer: Writer, path: &Path) -> Result<()> {
    let written = writer.auto_extension(false).write_to_file(path);
    written.map_err(|error| Error::write(path, error))
}

/// Open a burnpack file.
pub(crate) fn read_pack(path: &Path) -> Result<Reader> {
    Reader::from_file_exact(path).map_err(|error| Error::read(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::Module;
    use burn::nn::LinearConfig;
    use burn::store::ModuleRecord;
    use burn::tensor::{Int, Tensor};

    #[test]
    fn a_saved_tree_is_a_module_record() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("point.bpk");
        let device = Device::flex();
        let [one, two] = [(); 2].map(|()| LinearConfig::new(3, 2).init(&device));
        Tree::from_module(&one).save(&path).unwrap();
        let two = two.load_record(ModuleRecord::load(&path).unwrap());
        crate::testing::assert_same_bits(&Tree::from_module(&two), &Tree::from_module(&one));
        // And the other way round, in the order of the record.
        one.clone().into_record().save(&path).unwrap();
        let tree = Tree::load(&path, &device).unwrap();
        assert_eq!(tree.names()[0].path, "bias");
        assert_eq!(tree.names()[1].id, Some(one.weight.id));
    }

    #[test]
    fn files_that_are_none_of_ours_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tree.bpk");
        let device = Device::flex();
        let message = || Tree::load(&path, &device).unwrap_err().to_string();
        assert!(message().starts_with("cannot read") && message().contains("tree.bpk"));
        let tree = Tree::empty().push("w", Tensor::<1>::ones([100], &device)).unwrap();
        tree.save(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for length in [0, 3, 50, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            assert!(message().contains("tree.bpk"), "{length}");
        }
        std::fs::write(&path, [b'x'; 500]).unwrap();
        assert!(message().contains("tree.bpk"));
        let integers = Tensor::<1, Int>::from_data([1, 2], &device).into_data();
        let (bytes, shape, dtype) = integers.into_parts();
        let entry = burn_pack::Tensor::new("i".into(), dtype, shape, None, bytes);
        write_pack(Writer::new(vec![entry]), &path).unwrap();
        assert!(message().contains("leaf `i` has dtype"));
        // The file may go while the tree is in use.
        tree.save(&path).unwrap();
        let loaded = Tree::load(&path, &device).unwrap();
        std::fs::write(&path, []).unwrap();
        crate::testing::assert_same_bits(&loaded, &tree);
        // A failed write leaves the old file.
        let folder = folder.path().join("missing").join("tree.bpk");
        assert!(tree.save(&folder).unwrap_err().to_string().starts_with("cannot write"));
    }
}
