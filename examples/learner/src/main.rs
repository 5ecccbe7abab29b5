//! Robust training in burn-train's own loop: its dashboard, metrics, checkpoints and early stopping stay as they are.
//!
//! Two lines of the model's `TrainStep` are Crucible's. `step` takes its gradient from a training method of `adversarial`, at the
//! worst points it finds near the images, and `optimize` sends the gradient through a chain of transforms, here a clip by the norm
//! of everything. Both are fields of the model that are no part of its parameters.
//!
//! ```sh
//! cargo run --release -p learner
//! ```
//!
//! With burn-train's default features its dashboard takes the terminal.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use adversarial::training::{PgdTraining, RobustProgram, RobustTraining};
use adversarial::{Evaluation, Norm, Pgd, Recorded, Share, Threat};
use burn::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Linear, LinearConfig, Relu};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor};
use burn_train::metric::{AccuracyMetric, LossMetric};
use burn_train::{ClassificationOutput, InferenceStep, Learner, SupervisedTraining, TrainOutput, TrainStep};
use clipping::ClipByGlobalNorm;
use core_tensor::transform::{Chain, SharedChain};

mod digits;
use digits::{Batch, digits};

type Anyhow = Box<dyn std::error::Error>;

/// What is attacked: inputs `[batch, 64]` between 0 and 1 to logits `[batch, 10]`.
#[derive(Module, Debug)]
struct Network {
    hidden: Linear,
    output: Linear,
}

impl Network {
    fn new(device: &Device) -> Self {
        Self { hidden: LinearConfig::new(64, 128).init(device), output: LinearConfig::new(128, 10).init(device) }
    }

    fn forward(&self, images: Tensor<2>) -> Tensor<2> {
        self.output.forward(Relu::new().forward(self.hidden.forward(images)))
    }

    fn output(&self, batch: Batch) -> ClassificationOutput {
        let logits = self.forward(batch.images);
        let loss = CrossEntropyLossConfig::new().init(&logits.device()).forward(logits.clone(), batch.labels.clone());
        ClassificationOutput::new(loss, logits, batch.labels)
    }
}

/// What burn-train trains: the network, and how it is trained.
#[derive(Module, Debug)]
struct Robust {
    network: Network,
    #[module(skip)]
    method: Method,
    #[module(skip)]
    chain: SharedChain,
}

/// A recorded network and a training method. Clones share them, as they are one training's.
#[derive(Clone)]
struct Method(Arc<Mutex<(RobustProgram<Network, 2>, PgdTraining)>>);

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PgdTraining")
    }
}

impl TrainStep for Robust {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: Batch) -> TrainOutput<ClassificationOutput> {
        let (program, method) = &mut *self.method.0.lock().expect("no step has panicked");
        let (images, labels) = (batch.images, batch.labels);
        let step =
            method.gradients(program, &self.network, images, labels.clone()).expect("a batch of images in the box");
        let output = self.network.valid().output(Batch { images: step.adversarial, labels: labels.inner() });
        TrainOutput { grads: step.gradient.into_params().expect("a gradient of this network"), item: output }
    }

    fn optimize(self, optimizer: &mut ModuleOptimizer, lr: ModuleLearningRate, grads: GradientsParams) -> Self {
        self.chain.clone().optimize(self, optimizer, lr, grads).expect("a gradient of this network").into_model()
    }
}

impl InferenceStep for Robust {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: Batch) -> ClassificationOutput {
        self.network.output(batch)
    }
}

/// What every pixel may change by, in full ink.
const RADIUS: f64 = 0.15;

/// What a training came to, on the images it has not seen.
#[derive(Clone, Copy, Debug)]
struct Accuracy {
    clean: f64,
    robust: f64,
}

/// Trains for so many epochs, each pixel within `radius` of itself (0: as usual); metrics and checkpoints go to `folder`.
fn train(folder: &Path, epochs: usize, radius: f64) -> Result<Accuracy, Anyhow> {
    let device = Device::default();
    let (train, test, held_out) = digits(64, &device)?;
    let threat = Threat::new(Norm::Linf, radius)?;

    let network = Network::new(&device.clone().autodiff());
    let program = RobustProgram::record(&network, &held_out.images, Network::forward)?;
    let method = PgdTraining::new(threat)?.steps(5)?;
    let model = Robust {
        network,
        method: Method(Arc::new(Mutex::new((program, method)))),
        chain: Chain::new().then(ClipByGlobalNorm::new(1.0)?).shared(),
    };

    let training = SupervisedTraining::new(folder, train, test)
        .metrics((AccuracyMetric::new(), LossMetric::new()))
        .num_epochs(epochs)
        .with_default_checkpointers()
        .summary();
    let trained = training.launch(Learner::new(model, AdamWConfig::new().init(), 5e-3));
    if let Some(error) = trained.error {
        return Err(error.to_string().into());
    }

    let network = trained.model.network;
    let classifier = Recorded::new(&network, [64], Network::forward)?;
    let evaluation = Evaluation::new(Threat::new(Norm::Linf, RADIUS)?).attack(Pgd::new().steps(20));
    let labels: Vec<usize> = held_out.labels.into_data().iter::<i64>().map(|label| label as usize).collect();
    let report = evaluation.run(&classifier, held_out.images, &labels, None)?;
    let share = |share: Share| share.value().expect("held-out images");
    Ok(Accuracy { clean: share(report.clean), robust: share(report.ensemble) })
}

fn main() -> Result<(), Anyhow> {
    let folder = std::env::temp_dir().join("crucible-learner");
    for trained in [0.0, RADIUS] {
        let Accuracy { clean, robust } = train(&folder.join(format!("within-{trained}")), 15, trained)?;
        println!(
            "trained within {trained}: {:.1} % right, {:.1} % under PGD-20 within {RADIUS}",
            100.0 * clean,
            100.0 * robust
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn robust_training_holds_more_than_training_as_usual() {
        let folder = tempfile::tempdir().unwrap();
        let [usual, robust] =
            [0.0, RADIUS].map(|radius| train(&folder.path().join(radius.to_string()), 6, radius).unwrap());
        assert!(usual.clean > 0.9 && robust.clean > 0.8, "{usual:?}, {robust:?}");
        assert!(robust.robust > usual.robust + 0.2, "{usual:?}, {robust:?}");
    }
}
