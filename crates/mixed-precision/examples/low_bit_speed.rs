//! Time and bytes of AdamW with each format of state, against Burn's AdamW in the same run.

use std::time::Instant;

use burn::optim::{AdamWConfig, Optimizer};
use burn::tensor::{Device, Tensor};
use core_tensor::Random;
use mixed_precision::optim::{LowBitState, StateFormat, state_bytes};

const ELEMENTS: usize = 1 << 20;
const STEPS: usize = 20;

/// The fastest of some steps in ns an element, and bytes of state an element.
fn measure<O: Optimizer>(optim: &O) -> (f64, f64) {
    let device = Device::flex();
    let mut random = Random::new(1);
    let mut x: Tensor<1> = random.normal([ELEMENTS], 0.0, 1.0, &device);
    let g: Tensor<1> = random.normal([ELEMENTS], 0.0, 0.1, &device);
    let (mut state, mut fastest) = (None, f64::INFINITY);
    for _ in 0..STEPS {
        let start = Instant::now();
        (x, state) = optim.step(1e-3, x, g.clone(), state);
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    let bytes = state.as_ref().map_or(0, state_bytes);
    (fastest * 1e9 / ELEMENTS as f64, bytes as f64 / ELEMENTS as f64)
}

fn main() -> mixed_precision::Result<()> {
    let config = AdamWConfig::new();
    let (burns, bytes) = measure(&config.build());
    println!("| state | ns an element | of Burn's | bytes an element |\n|---|---|---|---|");
    println!("| Burn | {burns:.2} | 1 | {bytes:.3} |");
    for format in StateFormat::ALL {
        let (time, bytes) = measure(&config.low_bit(*format)?);
        println!("| {} | {time:.2} | {:.2} | {bytes:.3} |", format.name(), time / burns);
    }
    Ok(())
}
