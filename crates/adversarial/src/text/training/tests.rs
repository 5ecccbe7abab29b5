use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Int, Tensor};
use core_tensor::testing::{assert_close, host_devices, property};
use core_tensor::{Random, Tree};

use super::*;
use crate::error::Error;
use crate::text::models::numbers;
use crate::text::{
    Corpus, GruClassifierConfig, NeuralText, TextClassifier, TextCnn, TextCnnConfig, TextGradients, Vocabulary,
};

fn corpus() -> (Corpus, Vocabulary) {
    let corpus = Corpus::opinions(120, 4).unwrap();
    let vocabulary = Vocabulary::build(corpus.texts(), 2, 1000).unwrap();
    (corpus, vocabulary)
}

/// To `f64`, on the tape.
struct Wide;

impl ModuleMapper for Wide {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|x| Tensor::from_inner(x.inner().cast(DType::F64)).require_grad())
    }
}

/// A model in `f64` without dropout, and a batch that has a sentence without words.
fn setting() -> (TextCnn, TextBatch) {
    let (corpus, vocabulary) = corpus();
    let device = Device::flex().autodiff();
    let config = TextCnnConfig::new().with_dimension(6).with_filters(4).with_dropout(0.0);
    let model = config.try_init(&vocabulary, 2, 3, &device).unwrap().map(&mut Wide);
    let ids: Vec<_> = corpus.texts()[..5].iter().map(|text| vocabulary.encode(text, 30).ids).collect();
    let ids: Vec<&[usize]> = ids.iter().map(|ids| &ids[..]).chain([&[][..]]).collect();
    let (ids, mask) = numbers(&ids, 6, 30, &device);
    let labels = Tensor::<1, Int>::from_data([0, 1, 1, 0, 1, 0], &device);
    (model, TextBatch { ids, mask, labels })
}

fn lengths_of(shift: Tensor<3>) -> Vec<f64> {
    lengths(shift).into_data().iter::<f64>().collect()
}

#[test]
fn perturbations_have_their_length() {
    let (model, batch) = setting();
    let random = Random::new(1);
    let slope = joint(&model, &batch, batch.embed(&model).vectors.inner().zeros_like(), &random).shift;
    property(32, (1e-3..1e3f64, 1e-3..1e3f64, -300..10i32), |(epsilon, step_size, exponent)| {
        let slope = slope.clone() * 10f64.powi(exponent);
        let lengths = lengths_of(of_length(slope.clone(), epsilon));
        let tiny = exponent < -37;
        for length in &lengths[..5] {
            assert!((length / epsilon - 1.0).abs() < 1e-9 || tiny && *length <= epsilon, "{length} {epsilon}");
        }
        assert_eq!(lengths[5], 0.0);
        let method = FreeLb::new(epsilon).unwrap().step_size(step_size).unwrap();
        let mut shift = method.start(&model, &batch, &random);
        for _ in 0..3 {
            assert!(lengths_of(shift.clone()).iter().all(|length| *length <= epsilon * (1.0 + 1e-12)));
            assert_eq!(lengths_of(shift.clone())[5], 0.0);
            shift = method.ascend(shift, slope.clone());
        }
    });
}

#[test]
fn fgm_is_the_gradient_of_both_losses() {
    let (model, batch) = setting();
    let (random, epsilon) = (Random::new(1), 0.7);
    let found = Fgm::new(epsilon).unwrap().gradients(&model, &batch, &random).unwrap();
    assert_eq!(found.gradient_evaluations, 2);
    let slope = joint(&model, &batch, batch.embed(&model).vectors.inner().zeros_like(), &random).shift;
    let adversarial = Tensor::from_inner(of_length(slope, epsilon));
    let loss = |model: &TextCnn| {
        let [clean, moved] = [None, Some(adversarial.clone())].map(|shift| batch.loss(model, shift, &random));
        ((clean + moved) / 2.0).into_data().iter::<f64>().next().unwrap()
    };
    assert!((found.loss.value() - loss(&model)).abs() < 1e-12);
    // Along a random direction, r held where it is.
    let point = Tree::from_module(&model);
    let direction = Random::new(2).normal_like(&point, 1.0);
    let at = |t: f64| loss(&point.clone().axpy(t, &direction).unwrap().write_into(model.clone()).unwrap());
    let difference = (at(1e-6) - at(-1e-6)) / 2e-6;
    let slope = found.gradient.dot(&direction).unwrap().value();
    assert!((difference - slope).abs() < 1e-6 * slope.abs().max(1.0), "{difference} {slope}");
    // What the adversary is for: the loss there is larger.
    let [clean, moved] = [None, Some(adversarial.clone())].map(|shift| batch.loss(&model, shift, &random));
    assert!(moved.into_data().iter::<f64>().next() > clean.into_data().iter::<f64>().next());
}

#[test]
fn freelb_without_a_radius_is_standard_training() {
    let (model, batch) = setting();
    let random = Random::new(1);
    let standard = Standard.gradients(&model, &batch, &random).unwrap();
    for steps in [1, 3] {
        let method = FreeLb::new(1e-12).unwrap().steps(steps).unwrap();
        let found = method.gradients(&model, &batch, &random).unwrap();
        assert_eq!(found.gradient_evaluations, steps as u64);
        assert_close(&found.gradient, &standard.gradient, 1e-9);
    }
    // With a radius it is another, and its loss larger.
    let found = FreeLb::new(1.0).unwrap().gradients(&model, &batch, &random).unwrap();
    assert!(found.loss.value() > standard.loss.value());
}

#[test]
fn training_is_seeded() {
    let (corpus, vocabulary) = corpus();
    let weights = |seed: u64, method: &dyn TextTraining<TextCnn>, device: &Device| {
        let config = TextCnnConfig::new().with_dimension(8).with_filters(4);
        let model = config.try_init(&vocabulary, 2, 1, device).unwrap();
        let trainer = TextTrainer::new().epochs(2).unwrap().seed(seed);
        let trained = trainer.train(model, vocabulary.clone(), &corpus, method).unwrap();
        Tree::from_module(trained.model()).flatten().unwrap().into_data().iter::<f32>().collect::<Vec<_>>()
    };
    let methods: [&dyn TextTraining<TextCnn>; 3] = [&Standard, &Fgm::new(1.0).unwrap(), &FreeLb::new(1.0).unwrap()];
    for device in host_devices() {
        let mut all = Vec::new();
        for method in methods {
            let one = weights(1, method, &device);
            assert_eq!(one, weights(1, method, &device));
            assert_eq!(one, weights(1, method, &device.clone().autodiff()));
            assert_ne!(one, weights(2, method, &device));
            all.push(one);
        }
        assert!(all[0] != all[1] && all[1] != all[2]);
    }
}

#[test]
fn opinions_are_learned_by_every_method() {
    let (train, held_out) = Corpus::opinions(700, 2).unwrap().split(1.0 / 7.0, 3).unwrap();
    let vocabulary = Vocabulary::build(train.texts(), 1, 10_000).unwrap();
    let trainer = TextTrainer::new().epochs(8).unwrap().batch_size(20).unwrap().learning_rate(1e-2).unwrap();
    let accuracy = |classifier: &dyn TextClassifier| held_out.accuracy(classifier).unwrap();
    let cnn = |method: &dyn TextTraining<TextCnn>| {
        let config = TextCnnConfig::new().with_dimension(24).with_filters(16);
        let model = config.try_init(&vocabulary, 2, 1, &Device::flex()).unwrap();
        accuracy(&trainer.train(model, vocabulary.clone(), &train, method).unwrap())
    };
    let gru = GruClassifierConfig::new().with_dimension(24).with_hidden(16);
    let gru = gru.try_init(&vocabulary, 2, 1, &Device::flex()).unwrap();
    let found = [
        cnn(&Standard),
        cnn(&Fgm::new(0.5).unwrap()),
        cnn(&FreeLb::new(0.5).unwrap()),
        accuracy(&trainer.train(gru, vocabulary.clone(), &train, &Standard).unwrap()),
    ];
    println!("accuracy on 100 opinions held out: {found:?}");
    assert!(found.iter().all(|accuracy| *accuracy > 0.85), "{found:?}");
}

#[test]
fn movie_reviews_are_learned() {
    let folder = match std::env::var_os("DATA_DIR") {
        Some(_) => Corpus::movie_reviews_folder(),
        None => concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/movie-reviews").into(),
    };
    let reviews = match Corpus::movie_reviews(folder) {
        Ok(reviews) => reviews,
        Err(error) => return println!("the movie reviews are not here: {error}"),
    };
    let (train, held_out) = reviews.split(0.1, 1).unwrap();
    let chosen: Vec<usize> = (0..train.len()).step_by(3).collect();
    let train = train.select(&chosen);
    let vocabulary = Vocabulary::build(train.texts(), 2, 20_000).unwrap();
    let config = TextCnnConfig::new().with_dimension(32).with_filters(32);
    let model = config.try_init(&vocabulary, 2, 1, &Device::flex()).unwrap();
    let trainer = TextTrainer::new().epochs(5).unwrap().learning_rate(5e-3).unwrap();
    let accuracy = held_out.accuracy(&trainer.train(model, vocabulary, &train, &Standard).unwrap()).unwrap();
    println!("accuracy on {} reviews held out, trained on {}: {accuracy:.3}", held_out.len(), train.len());
    assert!(accuracy > 0.66, "{accuracy}");
}

/// What a hook was asked, and what it has seen.
struct Watch {
    rewritten: Vec<Rewritten>,
    reports: Vec<EpochReport>,
}

impl TrainingHook<TextCnn> for Watch {
    fn rewrite(&mut self, epoch: usize, classifier: &NeuralText<TextCnn>) -> Result<Vec<Rewritten>> {
        assert_eq!(classifier.logits(&["film"])?[0].len(), 2);
        Ok(if epoch == 1 { self.rewritten.clone() } else { Vec::new() })
    }

    fn report(&mut self, report: &EpochReport) {
        self.reports.push(*report);
    }
}

#[test]
fn rewritten_sentences_are_learned_from() {
    let (corpus, vocabulary) = corpus();
    let run = |rewritten: Vec<Rewritten>| {
        let config = TextCnnConfig::new().with_dimension(8).with_filters(4).with_dropout(0.0);
        let model = config.try_init(&vocabulary, 2, 1, &Device::flex()).unwrap();
        let mut watch = Watch { rewritten, reports: Vec::new() };
        let trainer = TextTrainer::new().epochs(3).unwrap().batch_size(40).unwrap().learning_rate(1e-2).unwrap();
        let trained = trainer.train_with(model, vocabulary.clone(), &corpus, &Standard, &mut watch);
        trained.map(|trained| (watch.reports, trained))
    };
    let new = |sentence, replaces| Rewritten { sentence, replaces, text: "a wonderful film".into() };
    let sentences = |rewritten| run(rewritten).unwrap().0.iter().map(|report| report.sentences).collect::<Vec<_>>();
    assert_eq!(sentences(vec![]), [120, 120, 120]);
    assert_eq!(sentences(vec![new(0, false), new(5, true), new(7, true), new(7, true)]), [120, 122, 120]);
    let (reports, plain) = run(vec![]).unwrap();
    assert_eq!((reports[2].epoch, reports[2].gradient_evaluations), (2, 3));
    assert!(reports[2].loss < reports[0].loss);
    // The same text in the same place is the same training; another text is not.
    let same = Rewritten { sentence: 119, replaces: true, text: corpus.texts()[119].clone() };
    let weights = |classifier: &NeuralText<TextCnn>| classifier.word_vectors().vectors().to_vec();
    assert_eq!(weights(&run(vec![same]).unwrap().1), weights(&plain));
    assert_ne!(weights(&run(vec![new(119, true)]).unwrap().1), weights(&plain));
    let error = run(vec![new(120, true)]).unwrap_err().to_string();
    assert!(error.contains("number has shape [120]"), "{error}");
}

#[test]
fn bad_settings_are_named() {
    assert!(Fgm::new(0.0).is_err() && Fgm::new(f64::NAN).is_err() && FreeLb::new(f64::INFINITY).is_err());
    let freelb = FreeLb::new(1.0).unwrap();
    assert!(freelb.steps(0).is_err() && freelb.step_size(-1.0).is_err());
    let trainer = TextTrainer::new();
    assert!(trainer.clone().epochs(0).is_err() && trainer.clone().batch_size(0).is_err());
    assert!(trainer.clone().longest(0).is_err() && trainer.clone().learning_rate(0.0).is_err());
    let (corpus, vocabulary) = corpus();
    let model = TextCnnConfig::new().try_init(&vocabulary, 1, 0, &Device::flex()).unwrap();
    let error = trainer.train(model, vocabulary.clone(), &corpus, &Standard).unwrap_err();
    assert!(matches!(error, Error::TooFewClasses { needed: 2, classes: 1, .. }));
    let model = TextCnnConfig::new().try_init(&vocabulary, 2, 0, &Device::flex()).unwrap();
    let other = Vocabulary::from_words(vec!["film".into()]).unwrap();
    assert!(matches!(trainer.train(model, other, &corpus, &Standard), Err(Error::Shape { .. })));
}
