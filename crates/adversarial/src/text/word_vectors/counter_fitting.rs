//! Word vectors that tell synonyms from antonyms.

use std::collections::BTreeSet;

use rayon::prelude::*;

use super::WordVectors;
use crate::attack::check::{not_negative, positive};
use crate::error::{Error, Result};

/// Moves word vectors so that synonyms lie together and antonyms apart, and what lay together before still does: distributional vectors have `good`
/// beside `bad`, which is of no use to an attack that must keep the meaning.
///
/// ```text
/// minimise  k₁ Σ_antonyms max(0, δ − d(u, w)) + k₂ Σ_synonyms max(0, d(u, w) − γ) + k₃ Σ_neighbours max(0, d(v′ᵢ, v′ⱼ) − d(vᵢ, vⱼ))
/// ```
///
/// `d` is `1 −` cosine, `v` are the vectors at the beginning, and neighbours are words within `radius` of each other then. Vectors are brought to length 1
/// at the beginning and after each step. A step moves each word against the mean gradient of those of its terms that are not zero, all words from the
/// same vectors.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`steps`](Self::steps) | 20 | any | steps of gradient descent; 0 brings vectors to length 1 |
/// | [`learning_rate`](Self::learning_rate) | 1 | `(0, ∞)` | length of a step, of a mean of unit vectors |
/// | [`weights`](Self::weights) | 0.1 each | `[0, ∞)` | `k₁` antonyms, `k₂` synonyms, `k₃` neighbours |
/// | [`margins`](Self::margins) | 1 and 0 | `[0, 2]` | `δ`, distance of antonyms wanted at least, and `γ`, of synonyms at most |
/// | [`radius`](Self::radius) | 0.2 | `[0, 2]` | how near neighbours to keep are |
///
/// Pairs with a word that has no vector, and a word with itself, are left out, and so are pairs given twice. A pair that is in both lists is an
/// antonym. A vector of zeros takes on those of its synonyms, and stays where it has none.
///
/// Guarantees: the step is that of the gradient (`steps_follow_the_gradient`); the same input gives the same vectors bit for bit on any number of
/// threads.
///
/// Cost: the neighbours once, `words² · dimension` multiplications on all cores; then a step's pairs.
///
/// N. Mrkšić, D. Ó Séaghdha, B. Thomson, M. Gašić, L. Rojas-Barahona, P.-H. Su, D. Vandyke, T.-H. Wen, S. Young, "Counter-fitting word vectors to
/// linguistic constraints", NAACL 2016, arXiv:1603.00892, equations 1 to 4. Deviations: whole-batch steps instead of stochastic ones; the slope of `d` is
/// that of the cosine itself, so it takes the part along the vector off.
///
/// ```
/// use adversarial::text::{CounterFitting, WordVectors};
///
/// let words = ["good", "fine", "bad"].map(String::from).to_vec();
/// let vectors = WordVectors::new(words, vec![1.0, 0.1, 0.5, 0.9, 1.0, 0.2])?;
/// let pair = |a: &str, b: &str| (a.to_string(), b.to_string());
/// let fitted = CounterFitting::new().steps(200).fit(&vectors, &[pair("good", "fine")], &[pair("good", "bad")])?;
/// assert!(vectors.nearest("good", 1)[0].0 == "bad" && fitted.nearest("good", 1)[0].0 == "fine");
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct CounterFitting {
    steps: usize,
    learning_rate: f64,
    antonym_weight: f64,
    synonym_weight: f64,
    neighbour_weight: f64,
    antonym_margin: f64,
    synonym_margin: f64,
    radius: f64,
}

/// Two words, the weight of their term, and the distance where it begins.
#[derive(Clone, Copy, Debug)]
struct Term {
    other: usize,
    /// Positive where the pair is to come closer, negative where it is to part.
    weight: f64,
    margin: f64,
}

impl CounterFitting {
    /// With the settings of the table, those of the paper but for the step.
    pub fn new() -> Self {
        Self {
            steps: 20,
            learning_rate: 1.0,
            antonym_weight: 0.1,
            synonym_weight: 0.1,
            neighbour_weight: 0.1,
            antonym_margin: 1.0,
            synonym_margin: 0.0,
            radius: 0.2,
        }
    }

    /// Steps of gradient descent.
    pub fn steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// Length of a step.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless it is above zero and finite.
    pub fn learning_rate(self, learning_rate: f64) -> Result<Self> {
        positive("learning_rate", learning_rate)?;
        Ok(Self { learning_rate, ..self })
    }

    /// `k₁` of antonyms, `k₂` of synonyms, `k₃` of neighbours.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a negative number or one that is not finite.
    pub fn weights(self, antonyms: f64, synonyms: f64, neighbours: f64) -> Result<Self> {
        for (parameter, value) in [("antonyms", antonyms), ("synonyms", synonyms), ("neighbours", neighbours)] {
            not_negative(parameter, value)?;
        }
        Ok(Self { antonym_weight: antonyms, synonym_weight: synonyms, neighbour_weight: neighbours, ..self })
    }

    /// `δ`, the distance antonyms should have at least, and `γ`, that of synonyms at most.
    ///
    /// # Errors
    /// [`Error::Parameter`] outside `[0, 2]`.
    pub fn margins(self, antonyms: f64, synonyms: f64) -> Result<Self> {
        in_range("antonyms", antonyms)?;
        in_range("synonyms", synonyms)?;
        Ok(Self { antonym_margin: antonyms, synonym_margin: synonyms, ..self })
    }

    /// The distance within which words are neighbours to keep.
    ///
    /// # Errors
    /// [`Error::Parameter`] outside `[0, 2]`.
    pub fn radius(self, radius: f64) -> Result<Self> {
        in_range("radius", radius)?;
        Ok(Self { radius, ..self })
    }

    /// The vectors after fitting, all of length 1.
    ///
    /// # Errors
    /// [`Error::Word`] where fitting has led to a vector that is not finite, which only an absurd learning rate can do.
    pub fn fit(
        &self,
        vectors: &WordVectors,
        synonyms: &[(String, String)],
        antonyms: &[(String, String)],
    ) -> Result<WordVectors> {
        let dimension = vectors.dimension();
        let mut current: Vec<f64> = vectors.vectors().iter().map(|x| f64::from(*x)).collect();
        current.par_chunks_mut(dimension).for_each(normalise);
        let terms = self.terms(vectors, &current, synonyms, antonyms);
        for _ in 0..self.steps {
            let before = current.clone();
            current.par_chunks_mut(dimension).zip(&terms).enumerate().for_each(|(word, (own, terms))| {
                let slope = mean_slope(word, terms, &before, dimension);
                own.iter_mut().zip(slope).for_each(|(x, slope)| *x -= self.learning_rate * slope);
                normalise(own);
            });
        }
        WordVectors::new(vectors.words().to_vec(), current.into_iter().map(|x| x as f32).collect())
    }

    /// Each word's terms. Every pair is there twice, once for each of its words.
    fn terms(
        &self,
        vectors: &WordVectors,
        unit: &[f64],
        synonyms: &[(String, String)],
        antonyms: &[(String, String)],
    ) -> Vec<Vec<Term>> {
        let pairs = |pairs: &[(String, String)]| -> BTreeSet<(usize, usize)> {
            let rows = pairs.iter().filter_map(|(a, b)| Some((vectors.row(a)?, vectors.row(b)?)));
            rows.filter(|(a, b)| a != b).map(|(a, b)| (a.min(b), a.max(b))).collect()
        };
        let (synonyms, antonyms) = (pairs(synonyms), pairs(antonyms));
        let mut terms: Vec<Vec<Term>> = match self.neighbour_weight > 0.0 {
            true => self.neighbours(unit, vectors.dimension()),
            false => vec![Vec::new(); vectors.len()],
        };
        let mut add = |pairs: &mut dyn Iterator<Item = &(usize, usize)>, weight: f64, margin: f64| {
            for &(a, b) in pairs {
                terms[a].push(Term { other: b, weight, margin });
                terms[b].push(Term { other: a, weight, margin });
            }
        };
        add(&mut synonyms.difference(&antonyms), self.synonym_weight, self.synonym_margin);
        add(&mut antonyms.iter(), -self.antonym_weight, self.antonym_margin);
        terms
    }

    /// Words within the radius; their terms begin where they are.
    fn neighbours(&self, unit: &[f64], dimension: usize) -> Vec<Vec<Term>> {
        let narrow: Vec<f32> = unit.iter().map(|x| *x as f32).collect();
        let words = narrow.par_chunks(dimension).enumerate();
        let least = (1.0 - self.radius - 1e-4) as f32;
        words
            .map(|(word, own)| {
                let mut terms = Vec::new();
                for (other, vector) in narrow.chunks(dimension).enumerate() {
                    // In single precision first, which leaves few to look at again.
                    if other == word || short_dot(own, vector) < least {
                        continue;
                    }
                    let at = |row: usize| &unit[row * dimension..][..dimension];
                    let margin = 1.0 - product(at(word), at(other));
                    if margin <= self.radius {
                        terms.push(Term { other, weight: self.neighbour_weight, margin });
                    }
                }
                terms
            })
            .collect()
    }
}

impl Default for CounterFitting {
    fn default() -> Self {
        Self::new()
    }
}

/// The mean gradient, in a word's vector, of those of its terms that are not zero. All vectors have length 1.
fn mean_slope(word: usize, terms: &[Term], vectors: &[f64], dimension: usize) -> Vec<f64> {
    let at = |row: usize| &vectors[row * dimension..][..dimension];
    let own = at(word);
    let (mut slope, mut active) = (vec![0.0; dimension], 0usize);
    for term in terms {
        let other = at(term.other);
        let cosine = product(own, other);
        // A hinge: max(0, d − margin) for those to come closer, max(0, margin − d) for those to part.
        if (1.0 - cosine - term.margin) * term.weight.signum() > 0.0 {
            active += 1;
            // ∇d = −(w − cos·u) for unit vectors.
            slope.iter_mut().zip(own.iter().zip(other)).for_each(|(s, (u, w))| *s -= term.weight * (w - cosine * u));
        }
    }
    slope.iter_mut().for_each(|slope| *slope /= active.max(1) as f64);
    slope
}

fn product(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// In eight sums, so that they can be made side by side.
fn short_dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a8.remainder().iter().zip(b8.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a8.zip(b8) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    sums.iter().sum::<f32>() + rest
}

fn normalise(vector: &mut [f64]) {
    let norm = product(vector, vector).sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|x| *x /= norm);
    }
}

fn in_range(parameter: &'static str, value: f64) -> Result<()> {
    match (0.0..=2.0).contains(&value) {
        true => Ok(()),
        false => Err(Error::Parameter { parameter, value, bound: "between 0 and 2" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_tensor::Random;
    use core_tensor::testing::property;
    use proptest::prelude::*;

    fn random_vectors(words: usize, dimension: usize, seed: u64) -> WordVectors {
        let normal = burn::tensor::Distribution::Normal(0.0, 1.0);
        let values = Random::new(seed).draw(normal, [words, dimension].into());
        WordVectors::new((0..words).map(|i| format!("w{i}")).collect(), values.iter::<f32>().collect()).unwrap()
    }

    fn pair(a: usize, b: usize) -> (String, String) {
        (format!("w{a}"), format!("w{b}"))
    }

    #[test]
    fn steps_follow_the_gradient() {
        let pairs = || proptest::collection::vec((0usize..8, 0usize..8), 0..12);
        property(48, (pairs(), pairs(), any::<u64>(), 0.0..2.0f64), |(synonyms, antonyms, seed, radius)| {
            let vectors = random_vectors(8, 5, seed);
            let [synonyms, antonyms] =
                [synonyms, antonyms].map(|pairs| pairs.into_iter().map(|(a, b)| pair(a, b)).collect::<Vec<_>>());
            let fitting = CounterFitting::new().weights(0.3, 0.2, 0.1).unwrap().radius(radius).unwrap();
            let mut unit: Vec<f64> = vectors.vectors().iter().map(|x| f64::from(*x)).collect();
            unit.chunks_mut(5).for_each(normalise);
            let terms = fitting.terms(&vectors, &unit, &synonyms, &antonyms);
            // Moved a little, so that neighbours are no longer where they were.
            let noise = random_vectors(8, 5, seed ^ 1);
            let mut moved: Vec<f64> = unit.iter().zip(noise.vectors()).map(|(x, y)| x + 0.3 * f64::from(*y)).collect();
            moved.chunks_mut(5).for_each(normalise);
            let hinge = |term: &Term, word: usize, vectors: &[f64]| {
                let at = |row: usize| &vectors[row * 5..][..5];
                let lengths = product(at(word), at(word)).sqrt() * product(at(term.other), at(term.other)).sqrt();
                let distance = 1.0 - product(at(word), at(term.other)) / lengths;
                ((distance - term.margin) * term.weight).max(0.0)
            };
            for word in 0..8 {
                let active = terms[word].iter().filter(|term| hinge(term, word, &moved) > 0.0).count().max(1);
                let slope = mean_slope(word, &terms[word], &moved, 5);
                for (j, slope) in slope.iter().enumerate() {
                    let at = |by: f64| -> f64 {
                        let mut vectors = moved.clone();
                        vectors[word * 5 + j] += by;
                        terms[word].iter().map(|term| hinge(term, word, &vectors)).sum()
                    };
                    let difference = (at(1e-6) - at(-1e-6)) / 2e-6 / active as f64;
                    assert!((difference - slope).abs() < 1e-7, "{difference} {slope}");
                }
            }
            // Every pair once for each of its words, an antonym never a synonym.
            for (a, b) in antonyms.iter().filter(|(a, b)| a != b) {
                let [a, b] = [a, b].map(|word| vectors.row(word).unwrap());
                let found = |weight: f64| terms[a].iter().filter(|x| x.other == b && x.weight == weight).count();
                assert_eq!((found(-0.3), found(0.2)), (1, 0));
            }
        });
    }

    #[test]
    fn synonyms_meet_antonyms_part_and_neighbours_stay() {
        let vectors = random_vectors(60, 12, 4);
        let synonyms = [pair(0, 1), pair(1, 2), pair(5, 77), pair(3, 3)];
        let fitted = CounterFitting::new().steps(200).fit(&vectors, &synonyms, &[pair(0, 3), pair(7, 8)]).unwrap();
        let cosine = |vectors: &WordVectors, a: usize, b: usize| {
            let (a, b) = pair(a, b);
            vectors.cosine(&a, &b).unwrap()
        };
        assert!(cosine(&fitted, 0, 1) > 0.95 && cosine(&fitted, 1, 2) > 0.95);
        assert!(cosine(&fitted, 0, 3) < 0.05 && cosine(&fitted, 7, 8) < 0.05);
        // Who has no pair and no neighbour has only been made of length 1.
        assert!((cosine(&fitted, 20, 21) - cosine(&vectors, 20, 21)).abs() < 1e-6);
        for row in 0..60 {
            let norm: f64 = fitted.vector(row).iter().map(|x| f64::from(*x).powi(2)).sum();
            assert!((norm - 1.0).abs() < 1e-6);
        }
        // Neighbours are drawn along, where they are kept.
        let mut values = random_vectors(3, 12, 5).vectors().to_vec();
        let near: Vec<f32> = values[..12].iter().map(|x| x * 1.01 + 0.05).collect();
        values.extend(near);
        let vectors = WordVectors::new((0..4).map(|i| format!("w{i}")).collect(), values).unwrap();
        let drawn = |neighbours: f64| {
            let fitting = CounterFitting::new().steps(300).weights(0.1, 0.1, neighbours).unwrap();
            cosine(&fitting.fit(&vectors, &[pair(0, 1)], &[]).unwrap(), 0, 3)
        };
        assert!(cosine(&vectors, 0, 3) > 0.9 && drawn(0.1) > drawn(0.0) + 0.02, "{} {}", drawn(0.1), drawn(0.0));
    }

    #[test]
    fn vectors_of_zeros_and_bad_settings() {
        let values = vec![3.0, 4.0, 0.0, 0.0];
        let vectors = WordVectors::new(vec!["w0".into(), "w1".into()], values).unwrap();
        let fitted = CounterFitting::new().fit(&vectors, &[pair(0, 1)], &[]).unwrap();
        // A vector of zeros takes on that of its synonym, which stays where it is.
        assert_eq!(fitted.vectors(), [0.6, 0.8, 0.6, 0.8]);
        let fitted = CounterFitting::new().fit(&vectors, &[], &[pair(0, 1)]).unwrap();
        assert_eq!(fitted.vectors(), [0.6, 0.8, 0.0, 0.0]);
        let fitting = CounterFitting::new();
        assert!(fitting.clone().radius(2.1).is_err() && fitting.clone().margins(-0.1, 0.0).is_err());
        assert!(fitting.clone().learning_rate(0.0).is_err() && fitting.weights(0.1, f64::NAN, 0.1).is_err());
    }

    #[test]
    fn movie_reviews_and_real_pairs_agree_with_people() {
        use crate::text::{Corpus, Ppmi, Similarities, Vocabulary, read_pairs};
        let data = std::env::var_os("DATA_DIR").map_or_else(
            || concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data").into(),
            std::path::PathBuf::from,
        );
        let found = || -> Result<_> {
            let reviews = Corpus::movie_reviews(data.join("movie-reviews"))?;
            let of = |name: &str| read_pairs(data.join("synonyms").join(name));
            let antonyms = [of("ppdb_antonyms.txt")?, of("wordnet_antonyms.txt")?].concat();
            let people = Similarities::simlex(data.join("synonyms/SimLex-999.txt"))?;
            Ok((reviews, of("ppdb_synonyms.txt")?, antonyms, people))
        };
        let (reviews, synonyms, antonyms, people) = match found() {
            Ok(found) => found,
            Err(error) => return println!("the real pairs are not here: {error}"),
        };
        assert_eq!(people.len(), 999);
        let vocabulary = Vocabulary::build(reviews.texts(), 8, 20_000).unwrap();
        let start = std::time::Instant::now();
        let vectors = Ppmi::new(64).unwrap().train(reviews.texts(), &vocabulary).unwrap();
        let trained = start.elapsed().as_secs_f64();
        let fitted = CounterFitting::new().fit(&vectors, &synonyms, &antonyms).unwrap();
        let seconds = start.elapsed().as_secs_f64() - trained;
        let (before, pairs) = people.agreement(&vectors).unwrap();
        let (after, _) = people.agreement(&fitted).unwrap();
        println!("{} words in {trained:.1} s, fitted in {seconds:.1} s", vectors.len());
        println!("Spearman on {pairs} pairs of SimLex-999: {before:.3}, after counter-fitting {after:.3}");
        for word in ["good", "dull", "actor"] {
            println!("{word}: {:?}, after {:?}", vectors.nearest(word, 4), fitted.nearest(word, 4));
        }
        assert!(pairs > 200 && after > before + 0.1 && after > 0.3, "{pairs} {before} {after}");
    }
}
