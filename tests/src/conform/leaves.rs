//! Lists of tensors of any rank as trees in `f32` on the default device.

use burn::backend::Dispatch;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{Device, TensorData};
use core_tensor::{LeafName, Tree};

use super::json::Field;
use super::{Case, Trouble};

/// The tensors of a list as leaves `0`, `1` and so on. One of rank 0 becomes a leaf of shape `[1]`, as everywhere in Burn.
pub fn tree(list: &Field<'_>) -> Result<Tree, Trouble> {
    let device = Device::default();
    let mut leaves = Vec::new();
    for (i, field) in list.items()?.iter().enumerate() {
        let numbers = field.numbers()?;
        let data: Vec<f32> = numbers.data.iter().map(|x| *x as f32).collect();
        let data = TensorData::new(data, leaf_shape(numbers.shape));
        leaves.push((LeafName::new(i.to_string()), Dispatch::float_from_data(data, device.as_dispatch())));
    }
    Ok(Tree::from_leaves(leaves)?)
}

/// [`tree`] of a list that has to fit `like` tensor by tensor.
pub fn tree_like(list: &Field<'_>, like: &Tree) -> Result<Tree, Trouble> {
    fits(list, &like.to_data().iter().map(|(_, data)| data.shape().to_vec()).collect::<Vec<_>>())?;
    tree(list)
}

/// Compares `expect.key`, a list of tensors, with the leaves of `got` in their order.
pub fn compare(case: &mut Case<'_>, key: &str, got: &Tree) -> Result<(), Trouble> {
    let list = case.expect.get(key)?;
    let got = got.to_data();
    fits(&list, &got.iter().map(|(_, data)| data.shape().to_vec()).collect::<Vec<_>>())?;
    for (field, (path, data)) in list.items()?.iter().zip(&got) {
        let want = field.numbers()?;
        case.check_all(&format!("{key}[{path}]"), &data.iter::<f64>().collect::<Vec<_>>(), &want.data);
    }
    Ok(())
}

/// Refuses a list whose tensors have other shapes than these.
fn fits(list: &Field<'_>, shapes: &[Vec<usize>]) -> Result<(), Trouble> {
    let fields = list.items()?;
    if fields.len() != shapes.len() {
        return Err(list.malformed(format!("{} tensors for {}", fields.len(), shapes.len())).into());
    }
    for (field, shape) in fields.iter().zip(shapes) {
        let own = field.numbers()?.shape;
        if leaf_shape(own.clone()) != *shape {
            return Err(field.malformed(format!("shape {own:?} for a tensor of {shape:?}")).into());
        }
    }
    Ok(())
}

fn leaf_shape(shape: Vec<usize>) -> Vec<usize> {
    if shape.is_empty() { vec![1] } else { shape }
}
