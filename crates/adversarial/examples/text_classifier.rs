//! Trains classifiers of text on the movie reviews, or on our own opinions where these are not there, and says how accurate and fast they are.
//!
//! `cargo run --release -p adversarial --example text_classifier -- METHOD EPOCHS RATE BATCH EPSILON WARM`, where METHOD is `standard`, `fgm`, `freelb`, `gru`,
//! `vectors` (from trained word vectors) or `all` (`standard` if none is named), and WARM the epochs of standard training before the method begins.

use std::time::Instant;

use adversarial::Result;
use adversarial::text::training::{EpochReport, Fgm, FreeLb, Standard, TextTrainer, TextTraining, TrainingHook};
use adversarial::text::{
    Corpus, CounterFitting, GruClassifierConfig, NeuralText, Ppmi, TextClassifier, TextCnnConfig, TextModule,
    Vocabulary,
};
use burn::tensor::Device;

struct Print(Instant);

impl<M> TrainingHook<M> for Print {
    fn rewrites(&self, _epoch: usize) -> bool {
        false
    }

    fn report(&mut self, report: &EpochReport) {
        println!("  epoch {}: loss {:.4}, {:.1} s", report.epoch + 1, report.loss, self.0.elapsed().as_secs_f64());
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let chosen = arguments.first().map_or("standard", String::as_str);
    let number = |at: usize, otherwise: f64| arguments.get(at).and_then(|x| x.parse().ok()).unwrap_or(otherwise);
    let reviews = Corpus::movie_reviews(Corpus::movie_reviews_folder()).or_else(|error| {
        println!("{error}\nOur own opinions instead.");
        Corpus::opinions(2000, 1)
    })?;
    let (train, held_out) = reviews.split(0.1, 1)?;
    let vocabulary = Vocabulary::build(train.texts(), 2, 20_000)?;
    println!("{} sentences to train on, {} held out, {} words", train.len(), held_out.len(), vocabulary.words().len());
    let device = Device::default();
    let trainer = TextTrainer::new().epochs(number(1, 5.0) as usize)?.learning_rate(number(2, 2e-3))?;
    let trainer = trainer.batch_size(number(3, 50.0) as usize)?.seed(1);
    let epsilon = number(4, 0.1);
    let warm = number(5, 0.0) as usize;
    let cnn = |method: &dyn TextTraining<_>| {
        let mut model = TextCnnConfig::new().try_init(&vocabulary, 2, 1, &device)?;
        if warm > 0 {
            let first = trainer.clone().epochs(warm)?.train(model, vocabulary.clone(), &train, &Standard)?;
            model = first.model().clone();
        }
        report(trainer.train_with(model, vocabulary.clone(), &train, method, &mut Print(Instant::now()))?, &held_out)
    };
    for name in
        ["standard", "fgm", "freelb", "gru", "vectors"].into_iter().filter(|name| [name, "all"].contains(&chosen))
    {
        println!("{name}");
        match name {
            "standard" => cnn(&Standard)?,
            "fgm" => cnn(&Fgm::new(epsilon)?)?,
            "freelb" => cnn(&FreeLb::new(epsilon)?)?,
            "vectors" => {
                let start = Instant::now();
                let vectors = Ppmi::new(64)?.train(train.texts(), &vocabulary)?;
                // Of length 1.
                let vectors = CounterFitting::new().steps(0).fit(&vectors, &[], &[])?;
                println!("  word vectors in {:.1} s", start.elapsed().as_secs_f64());
                let model = TextCnnConfig::new().try_init_from(&vectors, &vocabulary, 2, 1, &device)?;
                let mut print = Print(Instant::now());
                report(trainer.train_with(model, vocabulary.clone(), &train, &Standard, &mut print)?, &held_out)?;
            }
            _ => {
                let model = GruClassifierConfig::new().try_init(&vocabulary, 2, 1, &device)?;
                let mut print = Print(Instant::now());
                report(trainer.train_with(model, vocabulary.clone(), &train, &Standard, &mut print)?, &held_out)?;
            }
        }
    }
    Ok(())
}

fn report<M: TextModule>(classifier: NeuralText<M>, held_out: &Corpus) -> Result<()> {
    println!("  held-out accuracy {:.4}", held_out.accuracy(&classifier)?);
    let texts: Vec<&str> = held_out.texts().iter().map(String::as_str).collect();
    let start = Instant::now();
    let rounds = 5;
    for _ in 0..rounds {
        classifier.logits(&texts)?;
    }
    let rate = (rounds * texts.len()) as f64 / start.elapsed().as_secs_f64();
    let start = Instant::now();
    let single = 200.min(texts.len());
    for text in &texts[..single] {
        classifier.logits(&[text])?;
    }
    let alone = single as f64 / start.elapsed().as_secs_f64();
    println!("  {rate:.0} sentences/s together, {alone:.0} one by one");
    Ok(())
}
