//! Labelled sentences: read from files, or our own.

use std::path::{Path, PathBuf};

use core_tensor::Random;

use crate::error::{Error, Result};
use crate::text::files::{self, Encoding};
use crate::text::{TextClassifier, opinions};

/// Sentences, each of one class.
///
/// | to | take |
/// |---|---|
/// | have sentences without any file | [`opinions`](Self::opinions) |
/// | read the movie reviews of Pang and Lee | [`movie_reviews`](Self::movie_reviews) |
/// | read a file a class, a sentence a line | [`read`](Self::read) |
/// | have your own | [`new`](Self::new) |
///
/// ```
/// use adversarial::text::Corpus;
///
/// let corpus = Corpus::opinions(200, 7)?;
/// let (train, held_out) = corpus.split(0.1, 1)?;
/// assert_eq!((train.len(), held_out.len()), (180, 20));
/// assert_eq!(train.classes(), ["negative", "positive"]);
/// println!("{}: {}", train.classes()[train.labels()[0]], train.texts()[0]);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corpus {
    texts: Vec<String>,
    labels: Vec<usize>,
    classes: Vec<String>,
}

const MOVIE_REVIEWS: &str = "movie-reviews";
const WHERE: &str = "no such file; get the sentence polarity dataset v1.0 from \
                     https://www.cs.cornell.edu/people/pabo/movie-review-data, put its two files there and set DATA_DIR";

impl Corpus {
    /// Sentences, the class of each, and the names of the classes.
    ///
    /// # Errors
    /// [`Error::EmptyBatch`] for no sentence, [`Error::Shape`] where there is not one label for each, [`Error::TooFewClasses`] for less
    /// than two classes, [`Error::Label`] for a label that is none of them.
    pub fn new(texts: Vec<String>, labels: Vec<usize>, classes: Vec<String>) -> Result<Self> {
        if texts.is_empty() {
            return Err(Error::EmptyBatch { what: "a corpus" });
        }
        if texts.len() != labels.len() {
            let expected = format!("[{}], one for each sentence", texts.len());
            return Err(Error::Shape { what: "labels", actual: vec![labels.len()], expected });
        }
        if classes.len() < 2 {
            return Err(Error::TooFewClasses { what: "a corpus", needed: 2, classes: classes.len() });
        }
        if let Some(example) = labels.iter().position(|label| *label >= classes.len()) {
            let label = i64::try_from(labels[example]).unwrap_or(i64::MAX);
            return Err(Error::Label { what: "the label", example, label, classes: classes.len() });
        }
        Ok(Self { texts, labels, classes })
    }

    /// A file for each class, named with it; a sentence a line, lines without anything but white space skipped.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file that cannot be read, and line and byte of what is not UTF-8 where it has to be; those of
    /// [`new`](Self::new).
    ///
    /// ```
    /// use adversarial::text::{Corpus, Encoding};
    ///
    /// let folder = std::env::temp_dir();
    /// let files = ["ham", "spam"].map(|class| (class, folder.join(format!("{class}-{}.txt", std::process::id()))));
    /// std::fs::write(&files[0].1, "See you at noon.\nThe film was good.\n").unwrap();
    /// std::fs::write(&files[1].1, "You have won!\n").unwrap();
    /// let corpus = Corpus::read(&files, Encoding::Utf8)?;
    /// assert_eq!(corpus.labels(), [0, 0, 1]);
    /// # files.iter().for_each(|(_, path)| std::fs::remove_file(path).unwrap());
    /// # Ok::<(), adversarial::Error>(())
    /// ```
    pub fn read<P: AsRef<Path>>(files: &[(&str, P)], encoding: Encoding) -> Result<Self> {
        let (mut texts, mut labels) = (Vec::new(), Vec::new());
        for (label, (_, path)) in files.iter().enumerate() {
            let text = files::read(path.as_ref(), encoding)?;
            // Only line feeds part lines: in ISO-8859-1 other characters that Unicode takes for line ends are within sentences.
            let lines = text.split('\n').map(str::trim).filter(|line| !line.is_empty());
            texts.extend(lines.map(String::from));
            labels.resize(texts.len(), label);
        }
        Self::new(texts, labels, files.iter().map(|(class, _)| (*class).to_string()).collect())
    }

    /// The folder in which [`movie_reviews`](Self::movie_reviews) looks: `movie-reviews` below the folder that the variable `DATA_DIR`
    /// names, else below `../shared/data`.
    pub fn movie_reviews_folder() -> PathBuf {
        files::data_folder().join(MOVIE_REVIEWS)
    }

    /// The sentence polarity dataset: 5,331 negative and 5,331 positive sentences from reviews of films, in English, lower case.
    /// Class 0 is `negative`, class 1 `positive`. From `rt-polarity.neg` and `rt-polarity.pos`, ISO-8859-1, in a folder, as
    /// [`movie_reviews_folder`](Self::movie_reviews_folder).
    ///
    /// B. Pang, L. Lee, "Seeing stars: exploiting class relationships for sentiment categorization with respect to rating scales", ACL
    /// 2005, arXiv:cs/0506075.
    ///
    /// # Errors
    /// [`Error::Data`] with the file looked for, and where to get it.
    pub fn movie_reviews(folder: impl AsRef<Path>) -> Result<Self> {
        let files = [("negative", "rt-polarity.neg"), ("positive", "rt-polarity.pos")]
            .map(|(class, name)| (class, folder.as_ref().join(name)));
        if let Some((_, path)) = files.iter().find(|(_, path)| !path.is_file()) {
            return Err(files::wrong(path, WHERE));
        }
        Self::read(&files, Encoding::Latin1)
    }

    /// So many short opinions on films, all different, half of them positive, made from a small grammar of our own: for a try
    /// without any file. Easier than real reviews.
    ///
    /// # Errors
    /// [`Error::Parameter`] outside `1..=20000`: the grammar is not made for more.
    pub fn opinions(count: usize, seed: u64) -> Result<Self> {
        if !(1..=opinions::LARGEST).contains(&count) {
            let value = count as f64;
            return Err(Error::Parameter { parameter: "count", value, bound: "1 <= count <= 20000" });
        }
        let (texts, labels) = opinions::write(count, seed);
        Self::new(texts, labels, vec!["negative".into(), "positive".into()])
    }

    /// Number of sentences.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there is no sentence.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// The sentences.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// The class of each sentence.
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }

    /// The names of the classes.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Some of the sentences, in the order given.
    ///
    /// # Panics
    /// For a number that is no sentence.
    pub fn select(&self, chosen: &[usize]) -> Self {
        let texts = chosen.iter().map(|i| self.texts[*i].clone()).collect();
        let labels = chosen.iter().map(|i| self.labels[*i]).collect();
        Self { texts, labels, classes: self.classes.clone() }
    }

    /// The share of the sentences that a classifier gives their class.
    ///
    /// # Errors
    /// Those of the classifier.
    pub fn accuracy(&self, classifier: &dyn TextClassifier) -> Result<f64> {
        let texts: Vec<&str> = self.texts.iter().map(String::as_str).collect();
        let found = classifier.logits(&texts)?;
        let right = found.iter().zip(&self.labels).filter(|(logits, label)| {
            let mut rivals = (0..logits.len()).filter(|class| class != *label);
            // What is no number is wrong.
            rivals.all(|rival| logits[**label] > logits[rival])
        });
        Ok(right.count() as f64 / self.len() as f64)
    }

    /// Parts the sentences at random into those to train on and a share held out, class by class, so that both have the classes in
    /// the proportion of the whole.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `0 < held_out < 1`; [`Error::EmptyBatch`] where one of the parts would be empty.
    pub fn split(&self, held_out: f64, seed: u64) -> Result<(Self, Self)> {
        if !(held_out > 0.0 && held_out < 1.0) {
            return Err(Error::Parameter { parameter: "held_out", value: held_out, bound: "0 < held_out < 1" });
        }
        let mut random = Random::new(seed).fork("corpus-split");
        let (mut train, mut test) = (Vec::new(), Vec::new());
        for class in 0..self.classes.len() {
            let of_class: Vec<usize> = (0..self.len()).filter(|i| self.labels[*i] == class).collect();
            let order = random.permutation(of_class.len());
            let held = (held_out * of_class.len() as f64).round() as usize;
            test.extend(order[..held].iter().map(|i| of_class[*i]));
            train.extend(order[held..].iter().map(|i| of_class[*i]));
        }
        if train.is_empty() || test.is_empty() {
            return Err(Error::EmptyBatch { what: "each part of a corpus" });
        }
        // In the corpus's order, whatever the draw.
        train.sort_unstable();
        test.sort_unstable();
        Ok((self.select(&train), self.select(&test)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_tensor::testing::property;
    use proptest::prelude::*;

    #[test]
    fn a_file_is_read_for_each_class() {
        let folder = tempfile::tempdir().unwrap();
        let [good, bad] = ["good.txt", "bad.txt"].map(|name| folder.path().join(name));
        std::fs::write(&good, "nice\n\n  very nice \r\n").unwrap();
        std::fs::write(&bad, b"na\xefve\x85 film").unwrap();
        let files = [("good", &good), ("bad", &bad)];
        let corpus = Corpus::read(&files, Encoding::Latin1).unwrap();
        assert_eq!(corpus.texts(), ["nice", "very nice", "naïve\u{85} film"]);
        assert_eq!((corpus.labels(), corpus.classes()), (&[0, 0, 1][..], &["good".to_string(), "bad".into()][..]));
        let error = Corpus::read(&files, Encoding::Utf8).unwrap_err().to_string();
        assert!(error.contains("bad.txt: line 1, byte 3 of it: 0xef"), "{error}");
        let error = Corpus::movie_reviews(folder.path()).unwrap_err().to_string();
        assert!(error.contains("rt-polarity.neg") && error.contains("https://"), "{error}");
    }

    #[test]
    fn bad_corpora_are_refused() {
        let texts = |count| vec!["a".to_string(); count];
        let classes = |count| vec!["c".to_string(); count];
        assert!(matches!(Corpus::new(texts(0), vec![], classes(2)), Err(Error::EmptyBatch { .. })));
        assert!(matches!(Corpus::new(texts(2), vec![0], classes(2)), Err(Error::Shape { .. })));
        assert!(matches!(Corpus::new(texts(1), vec![0], classes(1)), Err(Error::TooFewClasses { .. })));
        let error = Corpus::new(texts(2), vec![0, 2], classes(2)).unwrap_err().to_string();
        assert!(error.contains("label of example 1 is 2"), "{error}");
        assert!(Corpus::opinions(0, 0).is_err() && Corpus::opinions(20_001, 0).is_err());
        let corpus = Corpus::opinions(20, 0).unwrap();
        for share in [0.0, 1.0, f64::NAN, 0.01] {
            assert!(corpus.split(share, 0).is_err());
        }
    }

    #[test]
    fn a_split_is_seeded_complete_and_in_proportion() {
        property(32, (4usize..80, 0.1..0.9, any::<u64>()), |(count, share, seed)| {
            let corpus = Corpus::opinions(count, 3).unwrap();
            let Ok((train, test)) = corpus.split(share, seed) else { return };
            assert_eq!(corpus.split(share, seed).unwrap(), (train.clone(), test.clone()));
            let mut all = [train.texts(), test.texts()].concat();
            let mut expected = corpus.texts().to_vec();
            all.sort();
            expected.sort();
            assert_eq!(all, expected);
            for class in 0..2 {
                let of_class = |corpus: &Corpus| corpus.labels().iter().filter(|label| **label == class).count();
                let wanted = share * of_class(&corpus) as f64;
                assert!((of_class(&test) as f64 - wanted).abs() <= 0.5 + 1e-9);
            }
        });
    }

    #[test]
    fn the_movie_reviews_are_all_there() {
        match Corpus::movie_reviews(real_data()) {
            Ok(corpus) => {
                let positive: usize = corpus.labels().iter().sum();
                assert_eq!((corpus.len(), positive), (10_662, 5331));
                assert_eq!(corpus.texts()[0], "simplistic , silly and tedious .");
                assert!(corpus.texts().iter().any(|text| text.contains("cliché")));
            }
            Err(error) => println!("the movie reviews are not here: {error}"),
        }
    }

    /// Where the reviews are, seen from a test, which runs in the crate's folder.
    pub(in crate::text) fn real_data() -> PathBuf {
        match std::env::var_os("DATA_DIR") {
            Some(_) => Corpus::movie_reviews_folder(),
            None => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/movie-reviews")),
        }
    }
}
