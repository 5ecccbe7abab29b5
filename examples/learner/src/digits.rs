//! The digits that the lab embeds, as burn-train wants data: items, a batcher, loaders.

use std::io::Read;
use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_core::data::dataloader::batcher::Batcher;
use burn_core::data::dataloader::{DataLoader, DataLoaderBuilder};
use burn_core::data::dataset::InMemDataset;

/// One image: ink between 0 and 1, 8 × 8 pixels, and its digit.
#[derive(Clone, Debug)]
pub struct Digit {
    pixels: Vec<f32>,
    label: i64,
}

/// Images `[batch, 64]` and their digits `[batch]`.
#[derive(Clone, Debug)]
pub struct Batch {
    pub images: Tensor<2>,
    pub labels: Tensor<1, Int>,
}

type Loader = Arc<dyn DataLoader<Batch>>;

#[derive(Clone)]
struct Stack;

impl Batcher<Digit, Batch> for Stack {
    fn batch(&self, digits: Vec<Digit>, device: &Device) -> Batch {
        let pixels: Vec<f32> = digits.iter().flat_map(|digit| digit.pixels.iter().copied()).collect();
        let labels: Vec<i64> = digits.iter().map(|digit| digit.label).collect();
        Batch {
            images: Tensor::from_data(TensorData::new(pixels, [digits.len(), 64]), device),
            labels: Tensor::from_data(TensorData::new(labels, [digits.len()]), device),
        }
    }
}

/// Loaders of the training images and of the held-out ones (every fifth), and the latter in one batch.
pub fn digits(batch_size: usize, device: &Device) -> std::io::Result<(Loader, Loader, Batch)> {
    let file: &[u8] = include_bytes!("../../../crates/lab/data/digits.csv.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text)?;
    let digits = text.lines().map(|line| {
        let numbers: Vec<f32> = line.split(',').map(|number| number.parse().expect("an embedded number")).collect();
        Digit { pixels: numbers[..64].iter().map(|ink| ink / 16.0).collect(), label: numbers[64] as i64 }
    });
    let (held_out, train): (Vec<_>, Vec<_>) = digits.enumerate().partition(|(index, _)| index % 5 == 4);
    let [held_out, train] = [held_out, train].map(|part| part.into_iter().map(|(_, digit)| digit).collect::<Vec<_>>());
    let all = Stack.batch(held_out.clone(), device);
    let loader =
        |digits| DataLoaderBuilder::new(Stack).batch_size(batch_size).shuffle(1).build(InMemDataset::new(digits));
    Ok((loader(train), loader(held_out), all))
}
