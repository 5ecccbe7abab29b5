//! What every module of texts keeps.

use burn::module::{ModuleMapper, Param};
use burn::tensor::{DType, Device, Tensor};
use core_tensor::Random;
use core_tensor::testing::{host_devices, property};
use proptest::prelude::*;

use super::{Embedded, GruClassifierConfig, TextCnnConfig, TextModule, numbers};
use crate::error::Error;
use crate::text::{Corpus, NeuralText, TextClassifier, TextGradients, Vocabulary, WordVectors};

fn vocabulary() -> Vocabulary {
    Vocabulary::build(Corpus::opinions(200, 1).unwrap().texts(), 2, 500).unwrap()
}

/// Runs a check with each module, on each device.
macro_rules! for_every_module {
    ($check:ident) => {
        for device in host_devices() {
            let (vocabulary, cnn) = (vocabulary(), TextCnnConfig::new().with_dimension(12).with_filters(10));
            $check(cnn.try_init(&vocabulary, 3, 5, &device).unwrap(), vocabulary.clone());
            let gru = GruClassifierConfig::new().with_dimension(12).with_hidden(9);
            $check(gru.try_init(&vocabulary, 3, 5, &device).unwrap(), vocabulary);
        }
    };
}

#[test]
fn logits_do_not_depend_on_the_batch() {
    fn check<M: TextModule>(model: M, vocabulary: Vocabulary) {
        let classifier = NeuralText::new(model, vocabulary).unwrap().longest(20).unwrap();
        let texts = Corpus::opinions(60, 2).unwrap().texts().to_vec();
        let text = (0..60usize, 0..25usize).prop_map(move |(text, words)| {
            let words: Vec<&str> = texts[text].split(' ').cycle().take(words).collect();
            words.join(" ")
        });
        property(12, (proptest::collection::vec(text, 1..40), any::<u64>()), |(texts, seed)| {
            let all: Vec<&str> = texts.iter().map(String::as_str).collect();
            let together = classifier.logits(&all).unwrap();
            let order = Random::new(seed).permutation(all.len());
            let mixed: Vec<&str> = order.iter().map(|i| all[*i]).collect();
            for (place, logits) in order.iter().zip(classifier.logits(&mixed).unwrap()) {
                assert_eq!(together[*place], logits);
            }
            for (text, together) in all.iter().zip(&together) {
                assert_eq!(&classifier.logits(&[text]).unwrap()[0], together);
            }
        });
    }
    for_every_module!(check);
}

#[test]
fn padding_and_lost_words_change_nothing() {
    fn check<M: TextModule>(model: M, vocabulary: Vocabulary) {
        let model = model.valid();
        let device = model.embedding().device();
        let text = vocabulary.encode("what a wonderful film ! the plot is clever", 20).ids;
        let logits = |places: usize| {
            let (ids, mask) = numbers(&[&text], 3, places, &device);
            let logits = model.forward(Embedded::look_up(model.embedding(), ids, mask), None);
            logits.into_data().iter::<f32>().collect::<Vec<_>>()
        };
        let tight = logits(text.len());
        for (a, b) in tight.iter().zip(logits(text.len() + 9)) {
            assert!((a - b).abs() < 1e-5);
        }
        // The rows without a word are all the same: the bias, here 0.
        assert!(tight[3..].iter().all(|x| *x == 0.0));
        let classifier = NeuralText::new(model, vocabulary).unwrap().longest(3).unwrap();
        let found = classifier.logits(&["what a wonderful film", "what a wonderful", "", " ?! "]).unwrap();
        assert_eq!(found[0], found[1]);
        assert_eq!([&found[2], &found[3]], [&[0.0; 3]; 2]);
        let gradients = classifier.gradients(&["", "xyzzy"], &|_, _| vec![1.0; 3]).unwrap();
        assert!(gradients[0].tokens.is_empty() && gradients[0].gradients.is_empty());
        assert_eq!((gradients[1].rows.as_slice(), gradients[1].gradients[0].len()), (&[None][..], 12));
    }
    for_every_module!(check);
}

/// To `f64`.
struct Wide;

impl ModuleMapper for Wide {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|x| x.cast(DType::F64))
    }
}

#[test]
fn gradients_are_those_of_central_differences() {
    fn check<M: TextModule>(model: M, vocabulary: Vocabulary) {
        let classifier = NeuralText::new(model.map(&mut Wide), vocabulary).unwrap();
        let texts = ["what a Wonderful xyzzy film", "the plot is dull , and the score is boring ."];
        let cotangent = |text: usize, logits: &[f64]| vec![1.0, logits[0], -2.0 - text as f64];
        let found = classifier.gradients(&texts, &cotangent).unwrap();
        assert_eq!(classifier.logits(&texts).unwrap()[1].len(), 3);
        let model = classifier.model();
        for (index, (text, found)) in texts.iter().zip(&found).enumerate() {
            let ids = classifier.vocabulary().encode(text, 64).ids;
            let places = ids.len();
            let (numbers, mask) = numbers(&[&ids], 1, places, &Device::flex());
            let device = model.embedding().device();
            let (numbers, mask) = (numbers.to_device(&device), mask.to_device(&device));
            let Embedded { vectors, mask } = Embedded::look_up(model.embedding(), numbers, mask);
            let logits = |values: &[f64]| -> Vec<f64> {
                let data = burn::tensor::TensorData::new(values.to_vec(), [1, places, 12]);
                let vectors = Tensor::from_data(data, (&device, DType::F64));
                let logits = model.forward(Embedded { vectors, mask: mask.clone() }, None);
                logits.into_data().iter::<f64>().collect()
            };
            let mut values: Vec<f64> = vectors.into_data().iter::<f64>().collect();
            let weights = cotangent(index, &logits(&values));
            for (token, gradient) in found.gradients.iter().enumerate() {
                for (j, slope) in gradient.iter().enumerate() {
                    let at = token * 12 + j;
                    let mut moved = |by: f64| -> f64 {
                        let before = values[at];
                        values[at] += by;
                        let sum = logits(&values).iter().zip(&weights).map(|(a, b)| a * b).sum();
                        values[at] = before;
                        sum
                    };
                    let difference = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                    assert!(
                        (difference - f64::from(*slope)).abs() < 1e-6,
                        "{device:?}, {token}, {j}: {difference}, {slope}"
                    );
                }
            }
            assert!(found.gradients.iter().flatten().any(|x| x.abs() > 1e-3));
        }
    }
    for_every_module!(check);
}

#[test]
fn weights_are_seeded_and_vectors_taken_over() {
    let (vocabulary, device) = (vocabulary(), Device::flex());
    let logits = |seed: u64| {
        let model = TextCnnConfig::new().try_init(&vocabulary, 2, seed, &device).unwrap();
        NeuralText::new(model, vocabulary.clone()).unwrap().logits(&["a clever film"]).unwrap()
    };
    assert_eq!(logits(3), logits(3));
    assert_ne!(logits(3), logits(4));
    let vectors = WordVectors::new(vec!["film".into(), "unheard".into()], vec![1.0, 2.0, 3.0, 4.0]).unwrap();
    let config = GruClassifierConfig::new().with_dimension(2).with_hidden(3);
    let model = config.try_init_from(&vectors, &vocabulary, 2, 0, &device).unwrap();
    let classifier = NeuralText::new(model, vocabulary.clone()).unwrap();
    let known = classifier.word_vectors();
    assert_eq!(known.vector(known.row("film").unwrap()), [1.0, 2.0]);
    assert!(known.row("unheard").is_none());
    let error = TextCnnConfig::new().try_init_from(&vectors, &vocabulary, 2, 0, &device).unwrap_err();
    assert!(error.to_string().contains("word vectors has shape [2, 2]"), "{error}");
}

#[test]
fn bad_settings_are_named() {
    let (vocabulary, device) = (vocabulary(), Device::flex());
    let cnn = |config: TextCnnConfig| config.try_init(&vocabulary, 2, 0, &device).unwrap_err().to_string();
    assert!(cnn(TextCnnConfig::new().with_widths(vec![])).contains("widths = 0"));
    assert!(cnn(TextCnnConfig::new().with_widths(vec![2, 0])).contains("widths = 0"));
    assert!(cnn(TextCnnConfig::new().with_dropout(1.0)).contains("dropout = 1"));
    assert!(cnn(TextCnnConfig::new().with_dropout(f64::NAN)).contains("dropout = NaN"));
    assert!(cnn(TextCnnConfig::new().with_filters(0)).contains("filters = 0"));
    let gru = |config: GruClassifierConfig| config.try_init(&vocabulary, 2, 0, &device).unwrap_err().to_string();
    assert!(gru(GruClassifierConfig::new().with_hidden(0)).contains("hidden = 0"));
    let model = TextCnnConfig::new().try_init(&vocabulary, 2, 0, &device).unwrap();
    let other = Vocabulary::from_words(vec!["film".into()]).unwrap();
    let error = NeuralText::new(model.clone(), other).unwrap_err().to_string();
    assert!(error.contains("the embedding has shape") && error.contains("expected [3, dimension]"), "{error}");
    let classifier = NeuralText::new(model, vocabulary.clone()).unwrap();
    let error = classifier.gradients(&["film"], &|_, _| vec![1.0]).unwrap_err();
    assert!(matches!(error, Error::Shape { what: "a cotangent", .. }));
    assert!(classifier.longest(0).is_err());
}

#[test]
fn a_saved_classifier_is_the_same() {
    let (vocabulary, folder) = (vocabulary(), tempfile::tempdir().unwrap());
    let model = GruClassifierConfig::new().try_init(&vocabulary, 2, 1, &Device::flex()).unwrap();
    let saved = NeuralText::new(model, vocabulary).unwrap();
    saved.save(folder.path()).unwrap();
    let load = |hidden: usize| {
        NeuralText::load(folder.path(), |vocabulary| {
            GruClassifierConfig::new().with_hidden(hidden).try_init(vocabulary, 2, 2, &Device::flex())
        })
    };
    let texts = ["a clever film", "this is dull"];
    assert_eq!(load(64).unwrap().logits(&texts).unwrap(), saved.logits(&texts).unwrap());
    assert!(load(32).is_err());
    let other =
        NeuralText::load(folder.path(), |vocabulary| TextCnnConfig::new().try_init(vocabulary, 2, 2, &Device::flex()));
    assert!(other.unwrap_err().to_string().contains("weights.bpk"));
}
