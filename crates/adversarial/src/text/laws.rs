//! Laws of the engine and of all attacks, on classifiers whose answers are known.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use unicode_segmentation::UnicodeSegmentation;

use super::*;
use crate::error::{Error, Result};

/// A linear classifier of two classes: `z₁ − z₀` is the bias and a weight for each of the words it knows.
pub(super) struct Bag {
    weights: HashMap<String, f64>,
    bias: f64,
    /// Whatever it was asked.
    pub asked: Mutex<Vec<String>>,
}

impl Bag {
    pub fn new(bias: f64, weights: &[(&str, f64)]) -> Self {
        let weights = weights.iter().map(|(word, weight)| ((*word).to_owned(), *weight)).collect();
        Self { weights, bias, asked: Mutex::default() }
    }

    pub fn margin(&self, text: &str) -> f64 {
        let weight = |word: &str| self.weights.get(&word.to_lowercase()).copied().unwrap_or(0.0);
        self.bias + text.unicode_words().map(weight).sum::<f64>()
    }
}

impl TextClassifier for Bag {
    fn classes(&self) -> usize {
        2
    }

    fn logits(&self, texts: &[&str]) -> Result<Vec<Vec<f64>>> {
        self.asked.lock().unwrap().extend(texts.iter().map(|text| (*text).to_owned()));
        Ok(texts.iter().map(|text| vec![0.0, self.margin(text)]).collect())
    }
}

/// Weights of words `w0`, `w1`, …
fn numbered(bias: f64, weights: &[f64]) -> (Bag, String) {
    let names: Vec<String> = (0..weights.len()).map(|i| format!("word{i}x")).collect();
    let pairs: Vec<(&str, f64)> = names.iter().map(String::as_str).zip(weights.iter().copied()).collect();
    (Bag::new(bias, &pairs), names.join(" "))
}

fn vectors() -> Arc<WordVectors> {
    let words = ["good", "fine", "nice", "bad", "film", "movie", "picture", "plot"].map(String::from).to_vec();
    #[rustfmt::skip]
    let values = vec![1.0, 0.0, 0.0, 0.9, 0.4, 0.0, 0.8, 0.6, 0.0, -1.0, 0.1, 0.0, 0.0, 0.0, 1.0, 0.0, 0.3, 0.9, 0.1, 0.2, 0.9, 0.2, -0.5, 0.8];
    Arc::new(WordVectors::new(words, values).unwrap())
}

fn synonyms() -> Arc<SynonymList> {
    let pairs = [
        ("good", "fine"),
        ("good", "nice"),
        ("film", "movie"),
        ("film", "picture"),
        ("plot", "story"),
        ("bad", "poor"),
    ];
    Arc::new(SynonymList::new(pairs))
}

fn reviews() -> Bag {
    let weights = [
        ("good", 2.0),
        ("fine", 0.5),
        ("nice", 0.8),
        ("film", 0.3),
        ("movie", -0.2),
        ("picture", -0.4),
        ("bad", -2.0),
        ("plot", 0.1),
    ];
    Bag::new(-0.5, &weights)
}

/// Every attack without gradients, as a recipe that tells what it allows.
fn recipes() -> Vec<Recipe> {
    vec![
        DeepWordBug::new().most_edits(3).constraint(StopWords::english()).recipe(),
        DeepWordBug::new().importance(Importance::Head).keyboard().places(Places::RandomInside).recipe(),
        DeepWordBug::new()
            .importance(Importance::Tail)
            .places(Places::All)
            .constraint(MostChanged::share(0.4))
            .recipe(),
        Homoglyphs::new().most_words(2).recipe(),
        Homoglyphs::new().places(Places::All).importance(Importance::Random).constraint(EditDistance::new(2)).recipe(),
        Pwws::new(synonyms()).constraint(MostChanged::share(0.5)).recipe(),
        TextFooler::new(vectors()).constraint(WordSimilarity::new(vectors(), 0.6)).recipe(),
        GeneticAttack::new(vectors())
            .evolution(Evolution::new().population(6).generations(4))
            .most_changed(0.4)
            .recipe(),
        BeamAttack::new(Synonyms::new(synonyms())).width(2).recipe(),
        Recipe::new("typos", Greedy::new(Importance::DeleteOne))
            .transformation(KeyboardTypo::new(Places::All))
            .transformation(InsertCharacter::new(Places::Random).space())
            .constraint(ChangeOnce)
            .constraint(MostChanged::share(0.3).or_one()),
    ]
}

const TEXTS: [&str; 6] = [
    "A good film, good in every way.",
    "GOOD! Nice plot; fine movie — Good picture",
    "the film has a good plot, and it is nice",
    "A fine film",
    "good",
    "a bad film",
];

#[test]
fn queries_are_the_distinct_texts() {
    for attack in recipes() {
        for text in TEXTS {
            let model = reviews();
            let attacked = attack.attack(&model, &[text], &[TextGoal::untargeted(1)]).unwrap();
            let asked = model.asked.into_inner().unwrap();
            let distinct: HashSet<&String> = asked.iter().collect();
            assert_eq!(attacked.outcomes[0].queries, distinct.len() as u64, "{} on {text:?}", attack.name());
            assert_eq!(asked.len(), distinct.len());
        }
    }
}

#[test]
fn outcomes_do_not_depend_on_order_batch_or_company() {
    let goals = TextGoal::untargeted_all(&[1; 6]);
    for attack in recipes() {
        let whole = TextEngine::new().seed(3).run(&attack, &reviews(), &TEXTS, &goals).unwrap();
        for (i, text) in TEXTS.iter().enumerate() {
            let alone = TextEngine::new().seed(3).batch(1).run(&attack, &reviews(), &[*text], &goals[..1]).unwrap();
            assert_eq!(alone.outcomes[0], whole.outcomes[i]);
        }
        let backwards: Vec<&str> = TEXTS.iter().rev().copied().collect();
        let mut backwards = TextEngine::new().seed(3).batch(7).run(&attack, &reviews(), &backwards, &goals).unwrap();
        backwards.outcomes.reverse();
        assert_eq!(backwards, whole, "{}", attack.name());
        assert_eq!(whole.skipped(), 1);
        assert!(whole.succeeded() > 0, "{}: {}", attack.name(), whole.summary());
    }
}

#[test]
fn another_seed_is_another_attack_and_a_sentence_given_twice_is_attacked_once() {
    let attack = DeepWordBug::new();
    let goals = TextGoal::untargeted_all(&[1; 3]);
    let texts = [TEXTS[0], TEXTS[2], TEXTS[0]];
    let model = reviews();
    let first = TextEngine::new().run(&attack, &model, &texts, &goals).unwrap();
    assert_eq!(first.outcomes[0], first.outcomes[2]);
    let asked = model.asked.into_inner().unwrap();
    assert_eq!(asked.len() as u64, first.outcomes[0].queries + first.outcomes[1].queries);
    let other = |seed| TextEngine::new().seed(seed).run(&attack, &reviews(), &texts, &goals).unwrap();
    assert!((1..6).any(|seed| other(seed) != first) && other(0) == first);
}

#[test]
fn nothing_is_tried_where_nothing_can_be_said() {
    let texts = ["a bad film", "", " \n\t", "…👍!", "unheard of"];
    let attacked = DeepWordBug::new().attack(&reviews(), &texts, &TextGoal::untargeted_all(&[1, 1, 1, 0, 0])).unwrap();
    let status: Vec<TextStatus> = attacked.outcomes.iter().map(|outcome| outcome.status).collect();
    let skipped = TextStatus::Skipped;
    let (wrong, none) = (skipped(SkipReason::AlreadyWrong), skipped(SkipReason::NoWords));
    // Words that the model does not know can be misspelt at will.
    assert_eq!(status, [wrong, none, none, none, TextStatus::Failed]);
    let queries: Vec<u64> = attacked.outcomes.iter().map(|outcome| outcome.queries).collect();
    assert!(queries[..4] == [1, 0, 0, 0] && queries[4] > 1, "{queries:?}");
    assert_eq!((attacked.accuracy_before(), attacked.accuracy_after(), attacked.success_rate()), (0.5, 0.5, 0.0));
    assert_eq!(attacked.outcomes[4].sentence.text(), "unheard of");
    let nothing = DeepWordBug::new().attack(&reviews(), &[] as &[&str], &[]).unwrap();
    assert!(nothing.outcomes.is_empty() && nothing.accuracy_before().is_nan());
    assert!(nothing.summary().contains("accuracy none → none"));
    // No word may be changed: it was attacked, and stands.
    let stop = Recipe::new("stop", Beam::new(2))
        .transformation(SwapCharacters::default())
        .constraint(StopWords::new(["good"]));
    assert_eq!(stop.attack(&reviews(), &["good"], &[TextGoal::untargeted(1)]).unwrap().failed(), 1);
}

#[test]
fn a_budget_ends_an_attack_at_exactly_so_many_queries() {
    let (model, text) = numbered(0.5, &[1.0; 12]);
    let goals = [TextGoal::untargeted(1)];
    let attack = DeepWordBug::new().importance(Importance::DeleteOne);
    let free = TextEngine::new().run(&attack, &model, &[&text], &goals).unwrap();
    let needed = free.outcomes[0].queries;
    assert_eq!(free.outcomes[0].status, TextStatus::Failed);
    for most in [1, 2, 7, 14, needed] {
        model.asked.lock().unwrap().clear();
        let attacked = TextEngine::new().queries(most).run(&attack, &model, &[&text], &goals).unwrap();
        assert_eq!((attacked.outcomes[0].queries, model.asked.lock().unwrap().len() as u64), (most, most));
    }
}

/// Words of positive weight misspelt have none, so the fewest to change are the heaviest.
fn fewest(bias: f64, weights: &[f64]) -> Option<u32> {
    let subsets = (0u32..1 << weights.len()).filter(|subset| {
        let left = (0..weights.len()).filter(|i| subset & 1 << i == 0).map(|i| weights[i]).sum::<f64>();
        bias + left < 0.0
    });
    subsets.map(u32::count_ones).min()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn greedy_changes_the_fewest_words_of_a_linear_classifier(weights in proptest::collection::vec(-2i8..6, 1..8), bias in -8i8..0) {
        // Half a unit off, so that no sum is 0.
        let (bias, weights) = (f64::from(bias) - 0.5, weights.into_iter().map(f64::from).collect::<Vec<_>>());
        let (model, text) = numbered(bias, &weights);
        prop_assume!(model.margin(&text) > 0.0);
        for importance in [Importance::DeleteOne, Importance::Unknown, Importance::DeleteOneOrTurn] {
            let attacked = DeepWordBug::new().importance(importance).attack(&model, &[&text], &[TextGoal::untargeted(1)]).unwrap();
            let outcome = &attacked.outcomes[0];
            match fewest(bias, &weights) {
                Some(fewest) => prop_assert_eq!((outcome.status, outcome.sentence.changed().len() as u32), (TextStatus::Succeeded, fewest)),
                None => prop_assert_eq!(outcome.status, TextStatus::Failed),
            }
        }
    }

    #[test]
    fn beam_finds_the_best_one_and_two_words_of_a_linear_classifier(
        weights in proptest::collection::vec((-3i8..6, -3i8..6, -3i8..6), 1..6), words in 1usize..3, width in 1usize..3,
    ) {
        // Word i has two synonyms. The bias is so high that nothing succeeds: the candidate nearest to it is the best.
        let name = |i: usize, kind: usize| format!("w{i}k{kind}");
        let mut all = Vec::new();
        let mut pairs = Vec::new();
        for (i, (own, first, second)) in weights.iter().enumerate() {
            all.extend([own, first, second].iter().enumerate().map(|(kind, weight)| (name(i, kind), f64::from(**weight))));
            pairs.extend([(name(i, 0), name(i, 1)), (name(i, 0), name(i, 2))]);
        }
        let model = Bag::new(100.0, &all.iter().map(|(word, weight)| (word.as_str(), *weight)).collect::<Vec<_>>());
        let text = (0..weights.len()).map(|i| name(i, 0)).collect::<Vec<_>>().join(" ");
        let attack = BeamAttack::new(Synonyms::new(Arc::new(SynonymList::new(pairs)))).width(width).most_words(words);
        let outcome = attack.attack(&model, &[&text], &[TextGoal::untargeted(1)]).unwrap().outcomes.remove(0);
        let mut gains: Vec<f64> = weights.iter().map(|(own, first, second)| f64::from(own - first.min(second)).max(0.0)).collect();
        gains.sort_by(|a, b| b.total_cmp(a));
        let best: f64 = gains.iter().take(words).sum();
        prop_assert_eq!(model.margin(&outcome.sentence.text()), model.margin(&text) - best);
        prop_assert!(outcome.sentence.changed().len() <= words);
    }

    #[test]
    fn results_satisfy_all_constraints(
        text in "(good|Film|BAD|plot|not|the|naïve|\\PC{0,3}|[ \u{301}\u{200d}א🇩👍🏽.,\n-]){0,9}", label in 0usize..2, seed in 0u64..4,
    ) {
        for attack in recipes() {
            let model = reviews();
            let attacked = TextEngine::new().seed(seed).run(&attack, &model, &[&text], &[TextGoal::untargeted(label)]).unwrap();
            let outcome = &attacked.outcomes[0];
            prop_assert!(attack.allows(&outcome.sentence), "{}: {:?}", attack.name(), outcome.sentence);
            let now = outcome.sentence.text();
            let right = usize::from(model.margin(&now) > 0.0) == label;
            match outcome.status {
                TextStatus::Succeeded => prop_assert!(!right && now != text),
                TextStatus::Failed => prop_assert!(right || model.margin(&now) == 0.0),
                TextStatus::Skipped(_) => prop_assert_eq!(now, text.as_str()),
            }
        }
    }
}

#[test]
fn a_target_and_a_confidence_are_reached_or_it_is_no_success() {
    struct Three;
    impl TextClassifier for Three {
        fn classes(&self) -> usize {
            3
        }
        fn logits(&self, texts: &[&str]) -> Result<Vec<Vec<f64>>> {
            let count = |text: &str, of: &str| text.unicode_words().filter(|word| *word == of).count() as f64;
            Ok(texts
                .iter()
                .map(|text| vec![count(text, "good") * 4.0, 3.0 * count(text, "fine"), 3.5 * count(text, "nice")])
                .collect())
        }
    }
    let attack = BeamAttack::new(Synonyms::new(synonyms()));
    let run = |goal| attack.attack(&Three, &["good film"], &[goal]).unwrap().outcomes.remove(0);
    let any = run(TextGoal::untargeted(0));
    assert_eq!((any.sentence.text().as_str(), any.after.unwrap().class), ("nice film", 2));
    assert_eq!(run(TextGoal::targeted(0, 1)).sentence.text(), "fine film");
    // `fine` is predicted with 91 %.
    let sure = |p| run(TextGoal::targeted(0, 1).confidence(p).unwrap()).status;
    assert_eq!((sure(0.9), sure(0.92)), (TextStatus::Succeeded, TextStatus::Failed));
}

#[test]
fn text_fooler_takes_the_most_similar_of_the_successes() {
    // Both `fine` and `nice` turn it; `nice` does so more, `fine` is nearer to `good`.
    let model = Bag::new(-0.5, &[("good", 1.0), ("fine", 0.2), ("nice", -3.0)]);
    let attacked = TextFooler::new(vectors()).attack(&model, &["Good film"], &[TextGoal::untargeted(1)]).unwrap();
    assert_eq!(attacked.outcomes[0].changed_words(), [("Good", "Fine")]);
    let greedy =
        Recipe::new("greedy", Greedy::new(Importance::DeleteOne)).transformation(NearestWords::new(vectors(), 2));
    let attacked = greedy.attack(&model, &["Good film"], &[TextGoal::untargeted(1)]).unwrap();
    assert_eq!(attacked.outcomes[0].changed_words(), [("Good", "Nice")]);
}

#[test]
fn pwws_weighs_the_gain_by_the_saliency() {
    // Both words gain the same from their synonyms, `plot` matters more by itself; neither is enough alone.
    let weights = [("good", 1.0), ("nice", -1.0), ("fine", 1.0), ("plot", 2.0), ("story", 0.0)];
    let model = Bag::new(-0.5, &weights);
    let attacked = Pwws::new(synonyms()).attack(&model, &["good plot"], &[TextGoal::untargeted(1)]).unwrap();
    let asked = model.asked.into_inner().unwrap();
    assert_eq!(attacked.outcomes[0].sentence.text(), "nice story");
    // The original, three synonyms, two saliencies, then `story` is known already and both together are left.
    assert_eq!(asked, ["good plot", "fine plot", "nice plot", "good story", "[UNK] plot", "good [UNK]", "nice story"]);
}

#[test]
fn the_table_shows_predictions_before_and_after_and_what_was_changed() {
    let attacked = BeamAttack::new(Synonyms::new(synonyms()))
        .attack(&reviews(), &["A fine film | plot", "bad"], &TextGoal::untargeted_all(&[1, 1]))
        .unwrap();
    // The margin is 0.4 before and −0.3 after.
    let expected = "| prediction | original | perturbed |\n|---|---|---|\n\
        | positive (60%) → negative (57%) | A fine [[film]] \\| plot | A fine [[picture]] \\| plot |\n";
    assert_eq!(attacked.table(&["negative", "positive"]), expected);
    assert_eq!(attacked.table(&[]), expected.replace("positive", "1").replace("negative", "0"));
    assert!(
        attacked.summary().starts_with("1 succeeded, 0 failed, 1 skipped; success rate 100.0%; accuracy 50.0% → 0.0%"),
        "{}",
        attacked.summary()
    );
}

#[test]
fn bad_input_is_named() {
    let good = [TextGoal::untargeted(1)];
    let run = |engine: TextEngine, goals: &[TextGoal]| {
        engine.run(&DeepWordBug::new(), &reviews(), &["good"], goals).unwrap_err().to_string()
    };
    assert!(run(TextEngine::new().batch(0), &good).contains("batch = 0"));
    assert!(run(TextEngine::new().queries(0), &good).contains("queries = 0"));
    assert!(run(TextEngine::new(), &[]).contains("goals has shape [0], expected [1]"));
    assert!(run(TextEngine::new(), &[TextGoal::untargeted(2)]).contains("the label of example 0 is 2"));
    assert!(run(TextEngine::new(), &[TextGoal::targeted(0, 2)]).contains("the target of example 0 is 2"));
    assert!(run(TextEngine::new(), &[TextGoal::targeted(1, 1)]).contains("which is the label"));
    let check =
        |attack: &dyn TextAttack| TextEngine::new().run(attack, &reviews(), &["good"], &good).unwrap_err().to_string();
    assert!(check(&DeepWordBug::new().importance(Importance::Combined(f64::NAN))).contains("weight of the tail"));
    assert!(
        check(&DeepWordBug::new().importance(Importance::Gradient))
            .contains("does not support a model without gradients")
    );
    assert!(check(&TextFooler::new(vectors()).candidates(0)).contains("count = 0"));
    assert!(check(&TextFooler::new(vectors()).least_similarity(2.0)).contains("least = 2"));
    assert!(check(&BeamAttack::new(Synonyms::new(synonyms())).width(0)).contains("width = 0"));
    assert!(check(&GeneticAttack::new(vectors()).most_changed(0.0)).contains("share = 0"));
    assert!(
        check(&GeneticAttack::new(vectors()).evolution(Evolution::new().temperature(0.0))).contains("temperature = 0")
    );
    assert!(check(&Recipe::new("none", Beam::new(1))).contains("a search without a transformation"));
}

#[test]
fn models_that_give_too_little_or_no_numbers_are_found_out() {
    struct Odd(Vec<f64>);
    impl TextClassifier for Odd {
        fn classes(&self) -> usize {
            2
        }
        fn logits(&self, texts: &[&str]) -> Result<Vec<Vec<f64>>> {
            Ok(texts.iter().map(|text| if *text == "good film" { vec![0.0, 1.0] } else { self.0.clone() }).collect())
        }
    }
    let attack = DeepWordBug::new();
    let error = attack.attack(&Odd(vec![1.0]), &["good plot"], &[TextGoal::untargeted(1)]).unwrap_err();
    assert!(matches!(error, Error::Shape { what: "logits", .. }), "{error}");
    // On the way they are no success; at the start the sentence is skipped.
    let odd = Odd(vec![f64::NAN, 1.0]);
    let attacked = attack.attack(&odd, &["good film", "good plot"], &TextGoal::untargeted_all(&[1, 1])).unwrap();
    assert_eq!(attacked.outcomes[0].status, TextStatus::Failed);
    assert_eq!(attacked.outcomes[0].sentence.text(), "good film");
    assert_eq!(attacked.outcomes[1].status, TextStatus::Skipped(SkipReason::NotFinite));
    assert_eq!((attacked.accuracy_before(), attacked.accuracy_after()), (0.5, 0.5));
}

/// A classifier that is linear in the vectors of its words: `z_k = Σᵢ u_k · v(xᵢ)`.
pub(super) struct Embedded {
    vectors: WordVectors,
    classes: Vec<Vec<f64>>,
    /// Whether its tokens are characters, not words.
    characters: bool,
}

impl Embedded {
    fn tokens<'t>(&self, text: &'t str) -> Vec<(usize, &'t str)> {
        match self.characters {
            false => text.unicode_word_indices().collect(),
            true => text.grapheme_indices(true).collect(),
        }
    }

    fn row(&self, token: &str) -> Option<usize> {
        self.vectors.row(&token.to_lowercase())
    }
}

impl TextClassifier for Embedded {
    fn classes(&self) -> usize {
        self.classes.len()
    }

    fn logits(&self, texts: &[&str]) -> Result<Vec<Vec<f64>>> {
        let logit = |text: &str, u: &Vec<f64>| {
            let rows = self.tokens(text).into_iter().filter_map(|(_, token)| self.row(token));
            rows.map(|row| self.vectors.vector(row).iter().zip(u).map(|(v, u)| f64::from(*v) * u).sum::<f64>())
                .sum::<f64>()
        };
        Ok(texts.iter().map(|text| self.classes.iter().map(|u| logit(text, u)).collect()).collect())
    }
}

impl TextGradients for Embedded {
    fn gradients(&self, texts: &[&str], cotangents: &dyn Fn(usize, &[f64]) -> Vec<f64>) -> Result<Vec<TokenGradients>> {
        let logits = self.logits(texts)?;
        let each = texts.iter().zip(logits).enumerate().map(|(i, (text, logits))| {
            let cotangent = cotangents(i, &logits);
            let slope = |d: usize| cotangent.iter().zip(&self.classes).map(|(c, u)| c * u[d]).sum::<f64>() as f32;
            let gradient: Vec<f32> = (0..self.vectors.dimension()).map(slope).collect();
            let tokens = self.tokens(text);
            TokenGradients {
                logits,
                tokens: tokens.iter().map(|(at, token)| *at..at + token.len()).collect(),
                rows: tokens.iter().map(|(_, token)| self.row(token)).collect(),
                gradients: vec![gradient; tokens.len()],
            }
        });
        Ok(each.collect())
    }

    fn word_vectors(&self) -> &WordVectors {
        &self.vectors
    }
}

fn embedded(values: &[f32], classes: Vec<Vec<f64>>) -> Embedded {
    let words = (0..values.len() / 2).map(|i| format!("w{i}")).collect();
    Embedded { vectors: WordVectors::new(words, values.to_vec()).unwrap(), classes, characters: false }
}

fn free_flips() -> HotFlip {
    HotFlip::new().least_cosine(-1.0).same_part_of_speech(None)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn hot_flip_finds_the_best_flip_of_a_linear_classifier(
        values in proptest::collection::vec(-1.0f32..1.0, 12), text in proptest::collection::vec(0usize..6, 1..5), flips in 1usize..3,
    ) {
        let model = embedded(&values, vec![vec![0.0, 0.0], vec![1.0, -0.5]]);
        let sentence = text.iter().map(|i| format!("w{i}")).collect::<Vec<_>>().join(" ");
        let margin = |text: &str| model.logits(&[text]).unwrap()[0][1];
        let label = usize::from(margin(&sentence) > 0.0);
        let sign = if label == 1 { 1.0 } else { -1.0 };
        let weights: Vec<f64> = (0..6).map(|i| sign * margin(&format!("w{i}"))).collect();
        let least = weights.iter().copied().fold(f64::INFINITY, f64::min);
        let mut gains: Vec<f64> = text.iter().map(|i| weights[*i] - least).collect();
        gains.sort_by(|a, b| b.total_cmp(a));
        let before = sign * margin(&sentence);
        let needed = (0..=flips).find(|count| before - gains.iter().take(*count).sum::<f64>() < -1e-6);
        let attack = free_flips().width(1).flips(1).most_flips(flips);
        let attacked = attack.attack_with_gradients(&model, &[&sentence], &[TextGoal::untargeted(label)]).unwrap();
        let outcome = &attacked.outcomes[0];
        match needed {
            Some(needed) => {
                prop_assert_eq!((outcome.status, outcome.sentence.changed().len()), (TextStatus::Succeeded, needed));
                prop_assert_eq!(outcome.gradients as usize, needed);
            }
            None => {
                let best = before - gains.iter().take(flips).sum::<f64>();
                let reached = sign * margin(&outcome.sentence.text());
                prop_assert!((reached - best).abs() < 1e-5, "{} {}", reached, best);
            }
        }
    }

    #[test]
    fn the_trigger_of_a_linear_classifier_is_its_worst_word(values in proptest::collection::vec(-1.0f32..1.0, 12), length in 1usize..4) {
        let model = embedded(&values, vec![vec![0.2, 0.0], vec![1.0, -0.5]]);
        let texts: Vec<String> = (0..6).flat_map(|i| (0..6).map(move |j| format!("w{i} w{j}"))).collect();
        let logits = model.logits(&texts.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        let ones: Vec<&str> = texts.iter().zip(&logits).filter(|(_, z)| z[1] > z[0]).map(|(text, _)| text.as_str()).collect();
        prop_assume!(!ones.is_empty());
        let goals = vec![TextGoal::targeted(1, 0); ones.len()];
        let trigger = UniversalTrigger::new().length(length).start("w3").candidates(2).find(&model, &ones, &goals).unwrap();
        let margin = |word: &str| { let z = &model.logits(&[word]).unwrap()[0]; z[1] - z[0] };
        let least = (0..6).map(|i| margin(&format!("w{i}"))).fold(f64::INFINITY, f64::min);
        prop_assert!(trigger.words.iter().all(|word| (margin(word) - least).abs() < 1e-6), "{:?}", trigger);
        let report = trigger.report(&model, &ones, &goals).unwrap();
        let turned = ones.iter().filter(|text| margin(text) + length as f64 * least < 0.0).count();
        prop_assert!(report.right_before == ones.len() && report.reached.abs_diff(turned) <= 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn hot_flip_keeps_its_constraints_on_any_text(
        text in "(a|B|abc|CAB|not|e\u{301}a|\\PC{0,3}|[ \u{301}\u{200d}א👍🏽.,\n-]){0,9}", characters: bool, label in 0usize..2,
    ) {
        let words = ["a", "b", "c", "abc", "cab", "<pad>"].map(String::from).to_vec();
        let vectors = WordVectors::new(words, vec![1.0, -1.0, 0.5, 2.0, -2.0, -9.0]).unwrap();
        let model = Embedded { vectors, classes: vec![vec![0.1], vec![1.0]], characters };
        let (edits, words) = (EditDistance::new(3), MostChanged::words(2));
        let attack = free_flips().most_flips(3).stop_words(StopWords::new(["cab"])).constraint(edits).constraint(words);
        let attacked = attack.attack_with_gradients(&model, &[&text], &[TextGoal::untargeted(label)]).unwrap();
        let outcome = &attacked.outcomes[0];
        prop_assert!(edits.allows(&outcome.sentence) && words.allows(&outcome.sentence));
        for (before, after) in outcome.changed_words() {
            prop_assert!(before.to_lowercase() != "cab" && !after.contains('<'), "{} {}", before, after);
        }
        if outcome.status == TextStatus::Succeeded {
            let logits = model.logits(&[&outcome.sentence.text()]).unwrap();
            prop_assert!(outcome.goal.reached(&logits[0]));
        }
    }
}

#[test]
fn hot_flip_flips_characters_of_a_model_that_reads_them() {
    let words = ["a", "b", "c", "<pad>"].map(String::from).to_vec();
    let vectors = WordVectors::new(words, vec![1.0, -1.0, 0.5, -9.0]).unwrap();
    let model = Embedded { vectors, classes: vec![vec![0.0], vec![1.0]], characters: true };
    let attacked = free_flips().attack_with_gradients(&model, &["Aca!"], &[TextGoal::untargeted(1)]).unwrap();
    let outcome = &attacked.outcomes[0];
    assert_eq!((outcome.status, outcome.sentence.changed().len()), (TextStatus::Succeeded, 1));
    assert!(["Bba!", "Bcb!"].contains(&outcome.sentence.text().as_str()), "{:?}", outcome.sentence);
}

#[test]
fn gradients_change_what_they_may_and_no_unknown_word() {
    let model = embedded(&[1.0, 0.0, -1.0, 0.0, 0.9, 0.1], vec![vec![0.0, 0.0], vec![1.0, 0.0]]);
    let goals = [TextGoal::untargeted(1)];
    let run =
        |attack: HotFlip, text: &str| attack.attack_with_gradients(&model, &[text], &goals).unwrap().outcomes.remove(0);
    assert_eq!(run(free_flips(), "W0 unheard").sentence.text(), "W1 unheard");
    let stays = run(free_flips().stop_words(StopWords::new(["w0"])), "W0 unheard");
    assert_eq!((stays.status, stays.sentence.text().as_str(), stays.gradients), (TextStatus::Failed, "W0 unheard", 1));
    // `w1` is opposite to `w0`: not with the paper's cosine.
    assert_eq!(run(HotFlip::new(), "w0").status, TextStatus::Failed);
    // The gradient's norm orders the words, for one gradient and no query but the candidates.
    let attack = DeepWordBug::new().importance(Importance::Gradient);
    let outcome = attack.attack_with_gradients(&model, &["w0"], &goals).unwrap().outcomes.remove(0);
    assert_eq!(outcome.gradients, 1);
    let error = free_flips().attack(&model, &["w0"], &goals).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
}

#[test]
fn triggers_name_what_is_wrong() {
    let model = embedded(&[1.0, 0.0, -1.0, 0.0], vec![vec![0.0, 0.0], vec![1.0, 0.0]]);
    let find = |trigger: UniversalTrigger, text: &str| {
        trigger.find(&model, &[text], &[TextGoal::untargeted(1)]).unwrap_err().to_string()
    };
    let trigger = UniversalTrigger::new().start("w0");
    assert!(find(UniversalTrigger::new(), "w0").contains("the word \"the\": the model does not know it"));
    assert!(
        find(trigger.clone(), "w1").contains("needs at least one example")
            && find(trigger.clone(), " ").contains("one example")
    );
    assert!(find(trigger.clone().length(0), "w0").contains("length = 0"));
    let error = trigger.find(&model, &["w0"], &[]).unwrap_err().to_string();
    assert!(error.contains("goals has shape [0]"));
    // Words that are excluded are not taken.
    let without = trigger.exclude(StopWords::new(["W1"])).find(&model, &["w0"], &[TextGoal::untargeted(1)]).unwrap();
    assert_eq!(without.words, ["w0"; 3]);
}

/// Asks for an importance and keeps it.
struct Asking(Importance, Arc<Mutex<Vec<f64>>>);

impl TextSearch for Asking {
    fn name(&self) -> String {
        "asking".into()
    }

    fn search<'s>(&'s self, space: &'s Space<'s>, oracle: &'s TextOracle) -> crate::attack::Walk<'s> {
        Box::pin(async move {
            let words = space.changeable(space.case.sentence());
            let found = self.0.of(space, oracle, &words).await;
            *self.1.lock().unwrap() = found;
        })
    }
}

#[test]
fn importance_is_what_the_papers_say() {
    let model = Bag::new(0.25, &[("good", 1.0), ("bad", -0.5), ("nice", 2.0)]);
    let text = "good, bad and nice";
    let q = |margin: f64| 1.0 / (1.0 + margin.exp());
    let of = |importance| {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let recipe = Recipe::new("asking", Asking(importance, kept.clone())).transformation(SwapCharacters::default());
        let attacked = recipe.attack(&model, &[text], &[TextGoal::untargeted(1)]).unwrap();
        assert_eq!(attacked.outcomes[0].status, TextStatus::Failed);
        (kept.lock().unwrap().clone(), attacked.outcomes[0].queries)
    };
    let near = |(actual, queries): (Vec<f64>, u64), expected: [f64; 4], expected_queries: u64| {
        assert!(actual.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{actual:?} {expected:?}");
        assert_eq!((actual.len(), queries), (4, expected_queries));
    };
    // The scores without each word, which rise as q does: m is 2.75 for the whole.
    near(of(Importance::DeleteOne), [-1.75, -3.25, -2.75, -0.75], 5);
    near(of(Importance::Unknown), [-1.75, -3.25, -2.75, -0.75], 5);
    let whole = q(2.75);
    near(of(Importance::DeleteOneOrTurn), [1.75, 3.25, 2.75, 0.75].map(|margin| q(margin) - whole), 5);
    // Beginnings: nothing (the unknown word), `good`, `good, bad`, …; the whole is known. Ends likewise.
    let head = [q(0.25) - q(1.25), q(1.25) - q(0.75), 0.0, q(0.75) - q(2.75)];
    let tail = [q(1.75) - q(2.75), q(2.25) - q(1.75), 0.0, q(0.25) - q(2.25)];
    near(of(Importance::Head), head, 5);
    near(of(Importance::Tail), tail, 5);
    near(of(Importance::Combined(0.5)), [0, 1, 2, 3].map(|i| head[i] + 0.5 * tail[i]), 8);
    near(of(Importance::InOrder), [0.0, -1.0, -2.0, -3.0], 1);
    // Without `nice` the other class is predicted, whose gain counts too.
    let model = Bag::new(-1.5, &[("good", 1.0), ("nice", 2.0)]);
    let kept = Arc::new(Mutex::new(Vec::new()));
    let recipe = Recipe::new("asking", Asking(Importance::DeleteOneOrTurn, kept.clone()))
        .transformation(SwapCharacters::default());
    recipe.attack(&model, &["good nice"], &[TextGoal::untargeted(1)]).unwrap();
    let (whole, good, nice) = (q(1.5), q(0.5), q(-0.5));
    assert!(kept.lock().unwrap().iter().zip([good - whole, 2.0 * (nice - whole)]).all(|(a, b)| (a - b).abs() < 1e-12));
}

#[test]
fn evolution_and_beam_find_what_word_by_word_searches_miss() {
    /// Surer of class 1 with one of `good` and `film` replaced, of class 0 with both.
    struct Both;
    impl TextClassifier for Both {
        fn classes(&self) -> usize {
            2
        }
        fn logits(&self, texts: &[&str]) -> Result<Vec<Vec<f64>>> {
            let margin = |text: &str| match (text.contains("good"), text.contains("film")) {
                (true, true) => 1.0,
                (false, false) => -1.0,
                _ => 2.0,
            };
            Ok(texts.iter().map(|text| vec![0.0, margin(text)]).collect())
        }
    }
    let run = |attack: &dyn TextAttack| {
        TextEngine::new()
            .run(attack, &Both, &["a good old film"], &[TextGoal::untargeted(1)])
            .unwrap()
            .outcomes
            .remove(0)
    };
    let greedy = Recipe::new("greedy", Greedy::new(Importance::DeleteOne)).transformation(Synonyms::new(synonyms()));
    let missed = run(&greedy);
    assert_eq!((missed.status, missed.sentence.text().as_str()), (TextStatus::Failed, "a good old film"));
    let genetic = GeneticAttack::new(vectors()).transformation(Synonyms::new(synonyms())).most_changed(0.5);
    for found in [run(&genetic), run(&BeamAttack::new(Synonyms::new(synonyms())))] {
        assert_eq!((found.status, found.sentence.changed().collect::<Vec<_>>()), (TextStatus::Succeeded, vec![1, 3]));
    }
}

/// Sentences about films and a naive Bayes classifier of their words; none where the data is not there.
fn film_reviews() -> Option<(Vec<String>, Vec<usize>, Bag)> {
    let folder = data()?.join("movie-reviews");
    let mut counts: HashMap<String, [f64; 2]> = HashMap::new();
    let (mut texts, mut labels) = (Vec::new(), Vec::new());
    for (label, name) in ["rt-polarity.neg", "rt-polarity.pos"].iter().enumerate() {
        let latin: String = std::fs::read(folder.join(name)).ok()?.into_iter().map(char::from).collect();
        for (i, line) in latin.lines().enumerate().take(2000) {
            if i % 20 == 0 {
                texts.push(line.to_owned());
                labels.push(label);
            } else {
                line.unicode_words()
                    .for_each(|word| counts.entry(word.to_lowercase()).or_insert([1.0; 2])[label] += 1.0);
            }
        }
    }
    let total = |label: usize| counts.values().map(|count| count[label]).sum::<f64>();
    let prior = (total(0) / total(1)).ln();
    let weights = counts.into_iter().map(|(word, count)| (word, (count[1] / count[0]).ln() + prior)).collect();
    Some((texts, labels, Bag { weights, bias: 0.0, asked: Mutex::default() }))
}

fn data() -> Option<std::path::PathBuf> {
    let named = std::env::var_os("DATA_DIR").map(std::path::PathBuf::from);
    let beside = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    named.into_iter().chain([beside]).find(|folder| folder.join("movie-reviews").exists())
}

#[test]
fn film_reviews_are_turned_by_misspellings_and_by_synonyms() {
    let Some((texts, labels, model)) = film_reviews() else {
        eprintln!("no folder movie-reviews in DATA_DIR");
        return;
    };
    let goals = TextGoal::untargeted_all(&labels);
    let misspelt = DeepWordBug::new().importance(Importance::DeleteOne).attack(&model, &texts, &goals).unwrap();
    assert!(misspelt.accuracy_before() > 0.65 && misspelt.accuracy_after() < 0.05, "{}", misspelt.summary());
    let Ok(thesaurus) = SynonymList::read(data().unwrap().join("synonyms/ppdb_synonyms.txt")) else { return };
    let attack = Pwws::new(Arc::new(thesaurus)).constraint(MostChanged::share(0.25));
    let replaced = attack.attack(&model, &texts, &goals).unwrap();
    assert!(replaced.accuracy_after() < replaced.accuracy_before() - 0.2, "{}", replaced.summary());
    assert!(replaced.outcomes.iter().all(|outcome| attack.recipe().allows(&outcome.sentence)));
}
