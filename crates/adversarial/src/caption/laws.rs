//! Laws of attacks on captions, on a captioner whose logits are linear in the image, and on digits.

use std::sync::OnceLock;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use core_tensor::Random;
use proptest::prelude::*;

use super::captioner::{Rows, largest, log_sum_exp};
use super::goal::Aim;
use super::loss::score;
use super::*;
use crate::digits;
use crate::engine::Status;
use crate::error::{Error, Result};

const PIXELS: usize = 6;
const MOST: usize = 3;

/// `z_t,k = w_t,k · x + b_t,k + f_{S_{t−1},k}`, with words a, b, c, d and the end.
#[derive(Clone)]
struct Linear {
    vocabulary: Vocabulary,
    weights: Vec<f32>,
    bias: Vec<f32>,
    follows: Vec<f32>,
    /// What `greedy` says whatever the image.
    liar: Option<Vec<usize>>,
}

const WORDS: usize = 5;

impl Linear {
    fn new(random: &mut Random, follows: f64) -> Self {
        let mut draw = |count: usize, size: f64| -> Vec<f32> {
            (0..count).map(|_| (size * (2.0 * random.next_f64() - 1.0)) as f32).collect()
        };
        Self {
            vocabulary: Vocabulary::new(["a", "b", "c", "d", "."], ".").unwrap(),
            weights: draw(MOST * WORDS * PIXELS, 1.0),
            bias: draw(MOST * WORDS, 0.3),
            follows: draw(WORDS * WORDS, follows),
            liar: None,
        }
    }

    /// Says `a` or `b` first, as the image has it, then `c`, then ends.
    fn of_one_choice(random: &mut Random) -> Self {
        let mut linear = Self::new(random, 0.0);
        linear.weights[WORDS * PIXELS..].fill(0.0);
        linear.bias.fill(-100.0);
        linear.bias[..2].fill(0.0);
        linear.bias[WORDS + 2] = 100.0;
        linear.bias[2 * WORDS + 4] = 100.0;
        linear
    }

    fn row(&self, step: usize, word: usize) -> &[f32] {
        &self.weights[(step * WORDS + word) * PIXELS..][..PIXELS]
    }

    /// Distance from an image to where the other of the first two words is said, in the whole of space.
    fn smallest(&self, x: &[f32]) -> f64 {
        let w: Vec<f64> = self.row(0, 0).iter().zip(self.row(0, 1)).map(|(a, b)| f64::from(a - b)).collect();
        let margin: f64 = w.iter().zip(x).map(|(w, x)| w * f64::from(*x)).sum();
        margin.abs() / w.iter().map(|w| w * w).sum::<f64>().sqrt()
    }
}

fn images(rows: &[Vec<f32>]) -> Tensor<4> {
    Tensor::from_data(TensorData::new(rows.concat(), [rows.len(), 1, 2, 3]), &Device::flex())
}

fn values<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
    x.to_data().iter().collect()
}

impl Captioner for Linear {
    fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    fn image(&self) -> [usize; 3] {
        [1, 2, 3]
    }

    fn most_words(&self) -> usize {
        MOST
    }

    fn device(&self) -> Device {
        Device::flex()
    }

    fn logits(&self, images: Tensor<4>, captions: &[Vec<usize>]) -> Result<Tensor<3>> {
        let x = values(&images);
        let mut z = Vec::new();
        for (x, caption) in x.chunks(PIXELS).zip(captions) {
            for (step, word) in (0..MOST).flat_map(|step| (0..WORDS).map(move |word| (step, word))) {
                let before = if step == 0 { WORDS - 1 } else { caption.get(step - 1).copied().unwrap_or(WORDS - 1) };
                let seen: f32 = self.row(step, word).iter().zip(x).map(|(w, x)| w * x).sum();
                z.push(seen + self.bias[step * WORDS + word] + self.follows[before * WORDS + word]);
            }
        }
        Ok(Tensor::from_data(TensorData::new(z, [captions.len(), MOST, WORDS]), &Device::flex()))
    }

    fn pullback(&self, images: Tensor<4>, captions: &[Vec<usize>]) -> Result<PulledCaptions<'_>> {
        let logits = self.logits(images.clone(), captions)?;
        let back = Box::new(move |cotangent: Tensor<3>| {
            let mut gradient = Vec::new();
            for c in values(&cotangent).chunks(MOST * WORDS) {
                let mut sum = [0f32; PIXELS];
                for (c, row) in c.iter().zip(self.weights.chunks(PIXELS)) {
                    sum.iter_mut().zip(row).for_each(|(sum, w)| *sum += c * w);
                }
                gradient.extend(sum);
            }
            Ok(Tensor::from_data(TensorData::new(gradient, images.dims()), &Device::flex()))
        });
        Ok(PulledCaptions { logits, back })
    }

    fn greedy(&self, images: Tensor<4>) -> Result<Vec<Vec<usize>>> {
        match &self.liar {
            Some(words) => Ok(vec![words.clone(); images.dims()[0]]),
            None => super::captioner::greedily(self, images),
        }
    }
}

fn thorough() -> ShowAndFool {
    ShowAndFool::new().confidence(0.0).steps(400).searches(9)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn distances_are_near_the_smallest(seed in 0u64..1_000_000) {
        let linear = Linear::of_one_choice(&mut Random::new(seed));
        let x = vec![0.5; PIXELS];
        let smallest = linear.smallest(&x);
        // Where the box is not in the way, and the two words are told apart.
        prop_assume!(smallest > 0.02 && smallest < 0.4);
        let said = linear.greedy(images(std::slice::from_ref(&x))).unwrap()[0][0];
        let (word, other) = (["a", "b"][said], ["a", "b"][1 - said]);
        let goals = [
            CaptionGoal::caption(format!("{other} c")),
            CaptionGoal::keywords([other, "c"]),
            CaptionGoal::without([word]),
        ];
        let found = thorough().attack(&linear, &images(&vec![x; 3]), &goals).unwrap();
        for outcome in &found.outcomes {
            prop_assert_eq!(outcome.status, Status::Broken);
            prop_assert_eq!(&outcome.after, &format!("{other} c"));
            prop_assert!(outcome.distance >= smallest * (1.0 - 1e-5), "{} {}", outcome.distance, smallest);
            prop_assert!(outcome.distance <= smallest * 1.02, "{} {}", outcome.distance, smallest);
        }
    }

    #[test]
    fn images_stay_in_the_box(seed in 0u64..1_000_000) {
        let mut random = Random::new(seed);
        let linear = Linear::new(&mut random, 0.3);
        // Some pixels at the bounds.
        let x: Vec<Vec<f32>> =
            (0..3).map(|_| (0..PIXELS).map(|_| (2.0 * random.next_f64() - 0.5).clamp(0.0, 1.0) as f32).collect()).collect();
        let goals = [CaptionGoal::caption("d a"), CaptionGoal::keywords(["b", "d"]), CaptionGoal::without(["a", "c"])];
        let attack = ShowAndFool::new().steps(100).searches(4);
        let found = attack.attack(&linear, &images(&x), &goals).unwrap();
        prop_assert!(values(&found.images).iter().all(|x| (0.0..=1.0).contains(x)));
        let captions = linear.greedy(found.images.clone()).unwrap();
        for (i, outcome) in found.outcomes.iter().enumerate() {
            prop_assert_eq!(&linear.vocabulary.spell(&captions[i]), &outcome.after);
            let aim = goals[i].aim(&linear, i).unwrap();
            prop_assert_eq!(aim.reached(&captions[i]), outcome.reached());
            let moved = values(&found.images)[i * PIXELS..][..PIXELS] != x[i];
            prop_assert_eq!(moved, outcome.status == Status::Broken);
            prop_assert_eq!(outcome.iterations > 0, outcome.status == Status::Broken);
        }
        // Images do not notice the others of their batch.
        let single = attack.batch(1).attack(&linear, &images(&x), &goals).unwrap();
        prop_assert_eq!(values(&single.images), values(&found.images));
        prop_assert_eq!(single.outcomes, found.outcomes);
    }

    #[test]
    fn losses_have_their_slopes(seed in 0u64..1_000_000, kappa in 0f64..2.0) {
        let mut random = Random::new(seed);
        let z: Vec<f32> = (0..MOST * WORDS).map(|_| (4.0 * random.next_f64() - 2.0) as f32).collect();
        let read = vec![0, 2];
        let aims = [Aim::Caption(read.clone()), Aim::Keywords(vec![0, 3]), Aim::Without(vec![0, 1])];
        for (aim, loss) in aims.iter().flat_map(|aim| [(aim, CaptionLoss::Logits), (aim, CaptionLoss::LogProbability)]) {
            let at = |z: &[f32]| score(aim, loss, kappa, z, &read, WORDS, WORDS - 1);
            let scored = at(&z);
            prop_assert!(scored.loss >= scored.least - 1e-9);
            for i in 0..z.len() {
                let h = 1e-3f32;
                let moved = |by: f32| { let mut z = z.clone(); z[i] += by; at(&z) };
                let (up, down) = (moved(h), moved(-h));
                // Not where another word becomes the largest, or a hinge lets go.
                if loss == CaptionLoss::Logits && (up.cotangent != down.cotangent) || up.loss > 1e3 || down.loss > 1e3 {
                    continue;
                }
                let argmin_moves = up.cotangent.iter().zip(&down.cotangent).any(|(a, b)| (a - b).abs() > 0.01);
                let slope = (up.loss - down.loss) / (f64::from(z[i] + h) - f64::from(z[i] - h));
                prop_assert!(argmin_moves || (slope - f64::from(scored.cotangent[i])).abs() < 2e-3,
                    "{aim:?} {loss:?} {i}: {slope} {}", scored.cotangent[i]);
            }
        }
    }

    #[test]
    fn beams_find_the_likeliest_caption(seed in 0u64..1_000_000) {
        let mut random = Random::new(seed);
        let linear = Linear::new(&mut random, 1.0);
        let x: Vec<Vec<f32>> = (0..2).map(|_| (0..PIXELS).map(|_| random.next_f64() as f32).collect()).collect();
        let x = images(&x);
        prop_assert_eq!(linear.beam(x.clone(), 1).unwrap(), linear.greedy(x.clone()).unwrap());
        // So many beams are all captions there are.
        let found = linear.beam(x.clone(), 1000).unwrap();
        let mut all = vec![vec![]];
        for length in 0..MOST {
            let longer: Vec<Vec<usize>> =
                all.iter().filter(|c| c.len() == length).flat_map(|c| (0..4).map(move |w| [c.clone(), vec![w]].concat())).collect();
            all.extend(longer);
        }
        for (i, found) in found.iter().enumerate() {
            let likelihood = |caption: &Vec<usize>| -> f64 {
                let logits = Rows::of(linear.logits(x.clone(), &[caption.clone(), caption.clone()]).unwrap());
                (0..MOST.min(caption.len() + 1))
                    .map(|t| f64::from(logits.at(i, t)[caption.get(t).copied().unwrap_or(4)]) - log_sum_exp(logits.at(i, t)))
                    .sum()
            };
            let best = all.iter().map(likelihood).fold(f64::NEG_INFINITY, f64::max);
            prop_assert!((likelihood(found) - best).abs() < 1e-6);
        }
    }
}

#[test]
fn keywords_do_not_fight_for_one_place() {
    // Words a b c d and the end; a wins word 0, where b is second; c wins word 1; the end wins word 2.
    let z = [3.0, 2.5, 0.0, 0.0, 0.0, 0.0, 1.0, 4.0, 0.0, 0.0, 0.0, 1.5, 0.0, 0.0, 5.0];
    let scored = |keywords: &[usize]| {
        score(&Aim::Keywords(keywords.to_vec()), CaptionLoss::Logits, 1.0, &z, &[0, 2], WORDS, WORDS - 1)
    };
    // Alone b takes word 0, for 0.5.
    let alone = scored(&[1]);
    assert_eq!((alone.loss, &alone.cotangent[..2]), (0.5, &[1.0, -1.0][..]));
    // With a, which has it with 0.5 < κ to spare, b has to go for word 1, for 3, and a is held where it is.
    let both = scored(&[0, 1]);
    assert_eq!((both.loss, both.least), (-0.5 + 3.0, -2.0));
    assert_eq!(both.cotangent, [-1., 1., 0., 0., 0., 0., -1., 1., 0., 0., 0., 0., 0., 0., 0.]);
    // With a and c only the end is left; where all places are taken a constant is.
    assert_eq!(scored(&[0, 1, 2]).loss, -0.5 + 3.5 - 1.0);
    assert!(scored(&[0, 1, 2, 4]).loss > 1e3);
    assert!(!both.promising && both.settled && scored(&[0, 2]).promising);
}

#[test]
fn pixels_at_the_bounds_move() {
    for (x, up) in [(0.0, 1.0), (1.0, -1.0)] {
        let mut linear = Linear::of_one_choice(&mut Random::new(1));
        // b is said where the mean is away from the bound.
        for pixel in 0..PIXELS {
            linear.weights[pixel] = 0.0;
            linear.weights[PIXELS + pixel] = up;
        }
        linear.bias[1] = if up > 0.0 { -1.0 } else { 6.0 - 1.0 };
        let found = thorough().attack(&linear, &images(&[vec![x; PIXELS]]), &[CaptionGoal::caption("b c")]).unwrap();
        let smallest = 1.0 / (PIXELS as f64).sqrt();
        let outcome = &found.outcomes[0];
        assert!(outcome.reached() && outcome.distance < 1.02 * smallest, "{outcome:?} {smallest}");
    }
}

#[test]
fn success_is_what_is_decoded() {
    let mut linear = Linear::of_one_choice(&mut Random::new(1));
    linear.liar = Some(vec![0, 2]);
    let x = images(&[vec![0.5; PIXELS]]);
    let found = ShowAndFool::new().attack(&linear, &x, &[CaptionGoal::caption("b c")]).unwrap();
    assert_eq!(found.outcomes[0].status, Status::Standing);
    assert_eq!((values(&found.images), found.outcomes[0].distance, found.success()), (values(&x), 0.0, 0.0));
    let found = ShowAndFool::new().attack(&linear, &x, &[CaptionGoal::caption("a  c")]).unwrap();
    assert_eq!((found.outcomes[0].status, found.outcomes[0].gradients), (Status::AlreadyReached, 0));
    linear.bias[0] = f32::NAN;
    let found = ShowAndFool::new().attack(&linear, &x, &[CaptionGoal::caption("b c")]).unwrap();
    assert_eq!(found.outcomes[0].status, Status::NotFinite);
}

#[test]
fn the_log_likelihood_fools_too() {
    let linear = Linear::new(&mut Random::new(3), 0.3);
    let goals = [CaptionGoal::caption("d b"), CaptionGoal::keywords(["d"]), CaptionGoal::without(["a", "b"])];
    let x = images(&vec![vec![0.5; PIXELS]; 3]);
    let attack = ShowAndFool::new().loss(CaptionLoss::LogProbability);
    let found = attack.attack(&linear, &x, &goals).unwrap();
    let hinge = ShowAndFool::new().attack(&linear, &x, &goals).unwrap();
    for (found, hinge) in found.outcomes.iter().zip(&hinge.outcomes) {
        assert!(found.reached() == hinge.reached(), "{found:?} {hinge:?}");
    }
}

#[test]
fn bad_input_is_named() {
    let linear = Linear::new(&mut Random::new(1), 0.3);
    let x = images(&vec![vec![0.5; PIXELS]; 2]);
    let error = |goal: CaptionGoal| {
        let goals = [CaptionGoal::caption("a"), goal];
        ShowAndFool::new().attack(&linear, &x, &goals).unwrap_err()
    };
    let text = |goal| error(goal).to_string();
    assert!(matches!(error(CaptionGoal::caption("a dog")), Error::Word { word, .. } if word == "dog"));
    assert!(text(CaptionGoal::keywords(["dog"])).contains("\"dog\""));
    assert!(text(CaptionGoal::caption("a .")).contains("\".\": it ends captions"));
    assert!(text(CaptionGoal::without(["a", "a"])).contains("\"a\": it is asked for twice"));
    assert!(matches!(error(CaptionGoal::caption(" ")), Error::Caption { example: 1, .. }));
    assert!(text(CaptionGoal::keywords([""; 0])).contains("has no word"));
    assert!(text(CaptionGoal::caption("a b c d")).contains("image 1 has 4 words, the captioner writes 3 at most"));
    assert!(text(CaptionGoal::keywords(["a", "b", "c", "d"])).contains("3 at most"));
    let goal = [CaptionGoal::caption("a")];
    let attack = |attack: ShowAndFool, x: Tensor<4>| attack.attack(&linear, &x, &goal).unwrap_err();
    let default = ShowAndFool::new();
    assert!(attack(default, x.clone()).to_string().contains("goals has shape [1]"));
    assert!(
        attack(default, Tensor::zeros([1, 1, 3, 3], &Device::flex())).to_string().contains("[images, ..[1, 2, 3]]")
    );
    let outside = attack(default, images(&[vec![0.5, 0.5, 1.5, 0.5, 0.5, 0.5]]));
    assert!(matches!(outside, Error::OutOfBounds { example: 0, element: 2, .. }));
    assert!(matches!(attack(default, images(&[vec![f32::NAN; 6]])), Error::OutOfBounds { .. }));
    let one = || images(&[vec![0.5; PIXELS]]);
    for (wrong, parameter) in [
        (default.steps(0), "steps"),
        (default.searches(0), "searches"),
        (default.redecode(0), "redecode"),
        (default.batch(0), "batch"),
        (default.rate(f64::NAN), "rate"),
        (default.constant(0.0), "constant"),
        (default.confidence(-1.0), "confidence"),
    ] {
        assert!(attack(wrong, one()).to_string().starts_with(parameter));
    }
    assert!(attack(default.bounds(1.0, 0.0), one()).to_string().contains("is out of range"));
    assert!(linear.beam(one(), 0).unwrap_err().to_string().starts_with("width"));
}

const NUMBERS: [&str; 10] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];

/// Digits as a captioner is to describe them: "a three which is odd".
fn described(digit: usize) -> String {
    format!("a {} which is {}", NUMBERS[digit], if digit.is_multiple_of(2) { "even" } else { "odd" })
}

fn pixels(chosen: &[usize], test: bool) -> Tensor<4> {
    let (train, held) = digits::load();
    let (x, _) = if test { held } else { train }.select(chosen);
    x.reshape([chosen.len(), 1, 8, 8])
}

fn reader() -> &'static RecordedCaptioner<ShowAndTell> {
    static READER: OnceLock<RecordedCaptioner<ShowAndTell>> = OnceLock::new();
    READER.get_or_init(|| {
        let words = NUMBERS.into_iter().chain(["a", "which", "is", "even", "odd", "."]);
        let vocabulary = Vocabulary::new(words, ".").unwrap();
        let shape = ShowAndTellShape { image: [1, 8, 8], channels: vec![16], hidden: 32, words: vocabulary.len() };
        let device = Device::flex().autodiff();
        let model = ShowAndTell::new(&shape, &mut Random::new(1), &device).unwrap();
        let (train, _) = digits::load();
        let captions: Vec<_> = train.digits.iter().map(|d| vocabulary.encode(&described(*d)).unwrap()).collect();
        let images = pixels(&(0..captions.len()).collect::<Vec<_>>(), false);
        let training = TeacherForcing::new().steps(300).batch(32).rate(0.01);
        let model =
            training.fit(model, ShowAndTell::forward, &vocabulary, &images, &captions, &mut |_, _| true).unwrap();
        let recorded = RecordedCaptioner::new(&model, vocabulary, [1, 8, 8], 6, ShowAndTell::forward).unwrap();
        recorded.decoder(|model, images| model.decode(images, 15, 15, 6))
    })
}

#[test]
fn digits_are_described_and_misdescribed() {
    let reader = reader();
    let (_, held) = digits::load();
    let all = pixels(&(0..held.digits.len()).collect::<Vec<_>>(), true);
    let captions = reader.greedy(all).unwrap();
    let right = captions.iter().zip(&held.digits).filter(|(c, d)| reader.vocabulary().spell(c) == described(**d));
    let right = right.count() as f64 / captions.len() as f64;
    assert!(right > 0.93, "{right}");
    let chosen: Vec<usize> = (0..8).collect();
    let goals: Vec<CaptionGoal> = (0..8)
        .map(|i| match i % 4 {
            // No such caption was ever seen.
            0 => CaptionGoal::caption(format!("a {} which is odd", NUMBERS[(held.digits[i] / 2 * 2 + 2) % 10])),
            1 => CaptionGoal::caption(described((held.digits[i] + 3) % 10)),
            2 => CaptionGoal::keywords([NUMBERS[(held.digits[i] + 5) % 10]]),
            _ => CaptionGoal::without([NUMBERS[held.digits[i]]]),
        })
        .collect();
    let found = ShowAndFool::new().searches(4).attack(reader, &pixels(&chosen, true), &goals).unwrap();
    for (outcome, goal) in found.outcomes.iter().zip(&goals) {
        assert!(outcome.reached() && outcome.distance < 4.0, "{goal}: {outcome:?}");
    }
    let again = reader.greedy(found.images.clone()).unwrap();
    assert!(
        again.iter().zip(&found.outcomes).all(|(words, outcome)| reader.vocabulary().spell(words) == outcome.after)
    );
}

#[test]
fn decoding_is_the_argmax_of_teacher_forcing() {
    let reader = reader();
    let images = pixels(&(0..50).collect::<Vec<_>>(), true);
    let captions = reader.greedy(images.clone()).unwrap();
    assert_eq!(captions, super::captioner::greedily(reader, images.clone()).unwrap());
    assert_eq!(captions, reader.beam(images.clone(), 1).unwrap());
    let logits = Rows::of(reader.pullback(images, &captions).unwrap().logits);
    for (i, caption) in captions.iter().enumerate() {
        let said: Vec<usize> = (0..=caption.len()).map(|t| largest(logits.at(i, t))).collect();
        assert_eq!(said, [&caption[..], &[15]].concat());
    }
}

#[test]
fn batches_do_not_mix() {
    let reader = reader();
    let captions = [vec![10, 3, 11], vec![], vec![10, 4, 11, 12, 13, 1], vec![0], vec![1, 1]];
    let all = pixels(&[0, 1, 2, 3, 4], true);
    let cotangent = Random::new(5).normal::<3>([5, 6, 16], 0.0, 1.0, &Device::flex());
    let pulled = reader.pullback(all.clone(), &captions).unwrap();
    let logits = pulled.logits.clone();
    let gradient = values(&(pulled.back)(cotangent.clone()).unwrap());
    for i in 0..5 {
        let one = |x: Tensor<4>| reader.pullback(x, &captions[i..=i]).unwrap();
        let x = pixels(&[i], true);
        let pulled = one(x.clone());
        let c = cotangent.clone().slice_dim(0, i..i + 1);
        let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
        assert!(near(&values(&pulled.logits), &values(&logits.clone().slice_dim(0, i..i + 1))));
        assert!(near(&values(&(pulled.back)(c.clone()).unwrap()), &gradient[i * 64..(i + 1) * 64]));
    }
    // And the gradient is that of Burn's autodiff.
    let device = Device::flex().autodiff();
    let model = reader.model().clone().to_device(&device).freeze();
    let x = Tensor::<4>::from_data(all.to_data(), &device).require_grad();
    let read: Vec<i64> = captions
        .iter()
        .flat_map(|caption| std::iter::once(&15).chain(caption).chain([15; 6].iter()).take(6).map(|word| *word as i64))
        .collect();
    let read = Tensor::from_data(TensorData::new(read, [5, 6]), &device);
    let weighed = model.forward(x.clone(), read) * Tensor::<3>::from_data(cotangent.into_data(), &device);
    let expected = values(&x.grad(&weighed.sum().backward()).unwrap());
    assert!(expected.iter().zip(&gradient).all(|(a, b)| (a - b).abs() < 1e-4));
    let wrong = |captions: &[Vec<usize>]| reader.logits(all.clone(), captions).unwrap_err().to_string();
    assert!(wrong(&captions[..2]).contains("captions has shape [2]"));
    let with = |caption| [&captions[..4], &[caption]].concat();
    assert!(wrong(&with(vec![16])).contains("is 16, the model has 16 classes"));
    assert!(wrong(&with(vec![0; 7])).contains("image 4 has 7 words"));
}
