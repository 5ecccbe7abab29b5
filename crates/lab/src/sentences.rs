//! Sentences, classifiers trained on them, and what attacks on these need: of the study of examples and of `lab attack text`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use adversarial::text::training::{TextTrainer, TextTraining, TrainingHook};
use adversarial::text::{
    Corpus, CounterFitting, NeuralText, Ppmi, SynonymList, TextCnn, TextCnnConfig, Vocabulary, WordVectors, read_pairs,
};
use burn::tensor::Device;

use crate::error::Result;

/// Sentences of the embedded corpus.
const OPINIONS: usize = 4000;
/// Rarer words are unknown to the classifier, which is how it learns what an unknown word is.
const LEAST_COUNT: usize = 2;
const MOST_WORDS: usize = 20_000;
/// Length of the vectors that say which words mean the same.
const DIMENSION: usize = 100;
/// Passes over the sentences.
pub const EPOCHS: usize = 5;

/// Synonyms for users without a file: of the words of our own opinions.
const SYNONYMS: &[(&str, &str)] = &[
    ("film", "movie"),
    ("film", "picture"),
    ("movie", "picture"),
    ("wonderful", "marvellous"),
    ("wonderful", "superb"),
    ("charming", "delightful"),
    ("charming", "engaging"),
    ("gripping", "absorbing"),
    ("clever", "smart"),
    ("moving", "touching"),
    ("brilliant", "stunning"),
    ("brilliant", "superb"),
    ("fresh", "new"),
    ("warm", "tender"),
    ("honest", "sincere"),
    ("witty", "clever"),
    ("beautiful", "graceful"),
    ("excellent", "superb"),
    ("lively", "spirited"),
    ("memorable", "unforgettable"),
    ("dull", "boring"),
    ("dull", "tedious"),
    ("boring", "tedious"),
    ("clumsy", "awkward"),
    ("lifeless", "cold"),
    ("awful", "dreadful"),
    ("awful", "terrible"),
    ("dreary", "gloomy"),
    ("stale", "tired"),
    ("shallow", "thin"),
    ("ugly", "unsightly"),
    ("poor", "weak"),
    ("triumph", "success"),
    ("joy", "delight"),
    ("joy", "pleasure"),
    ("treat", "pleasure"),
    ("masterpiece", "gem"),
    ("failure", "disaster"),
    ("failure", "dud"),
    ("mess", "blunder"),
    ("disappointment", "letdown"),
    ("chore", "bore"),
    ("shines", "sparkles"),
    ("delights", "impresses"),
    ("works", "succeeds"),
    ("fails", "falters"),
    ("stumbles", "falters"),
    ("loved", "adored"),
    ("enjoyed", "liked"),
    ("admired", "praised"),
    ("hated", "loathed"),
    ("disliked", "loathed"),
    ("endured", "suffered"),
    ("script", "screenplay"),
    ("plot", "story"),
    ("ending", "finale"),
    ("pacing", "tempo"),
    ("very", "truly"),
    ("quite", "rather"),
    ("utterly", "completely"),
    ("simply", "plainly"),
];
const ANTONYMS: &[(&str, &str)] = &[
    ("wonderful", "awful"),
    ("brilliant", "dull"),
    ("gripping", "boring"),
    ("charming", "tedious"),
    ("beautiful", "ugly"),
    ("warm", "cold"),
    ("honest", "false"),
    ("fresh", "stale"),
    ("witty", "witless"),
    ("thoughtful", "thoughtless"),
    ("memorable", "forgettable"),
    ("excellent", "poor"),
    ("triumph", "failure"),
    ("treat", "chore"),
    ("loved", "hated"),
    ("admired", "loathed"),
    ("works", "fails"),
    ("succeeds", "falters"),
    ("delights", "bores"),
    ("impresses", "disappoints"),
];

/// Labelled sentences, some of them held out.
#[derive(Clone, Debug)]
pub struct Sentences {
    /// Those to train on.
    pub train: Corpus,
    /// A tenth of them.
    pub held_out: Corpus,
    /// Where they are from.
    pub source: &'static str,
}

impl Sentences {
    /// The movie reviews where they are, else our own opinions.
    ///
    /// # Errors
    /// Those of a folder that is there and cannot be read.
    pub fn load(seed: u64) -> Result<Self> {
        let folder = Corpus::movie_reviews_folder();
        let (corpus, source) = match folder.is_dir() {
            true => (Corpus::movie_reviews(&folder)?, "sentences from reviews of films (Pang and Lee, 2005)"),
            false => (Corpus::opinions(OPINIONS, seed)?, "opinions on films from a small grammar"),
        };
        let (train, held_out) = corpus.split(0.1, seed)?;
        Ok(Self { train, held_out, source })
    }

    /// The words of a classifier trained on these.
    ///
    /// # Errors
    /// Those of [`Vocabulary::build`].
    pub fn vocabulary(&self) -> Result<Vocabulary> {
        Ok(Vocabulary::build(self.train.texts(), LEAST_COUNT, MOST_WORDS)?)
    }

    /// A convolutional network, trained from scratch.
    ///
    /// # Errors
    /// Those of the training.
    pub fn classifier(
        &self,
        method: &dyn TextTraining<TextCnn>,
        hook: &mut dyn TrainingHook<TextCnn>,
        seed: u64,
        device: &Device,
    ) -> Result<NeuralText<TextCnn>> {
        let vocabulary = self.vocabulary()?;
        let model = TextCnnConfig::new().try_init(&vocabulary, self.train.classes().len(), seed, device)?;
        let trainer = TextTrainer::new().epochs(EPOCHS)?.seed(seed);
        Ok(trainer.train_with(model, vocabulary, &self.train, method, hook)?)
    }
}

/// Reads a classifier that [`NeuralText::save`] has written from [`Sentences::classifier`].
///
/// # Errors
/// Those of its files.
pub fn load(folder: &Path, device: &Device) -> Result<NeuralText<TextCnn>> {
    Ok(NeuralText::load(folder, |vocabulary| TextCnnConfig::new().try_init(vocabulary, 2, 0, device))?)
}

type Pairs = Vec<(String, String)>;

/// What means the same: a list of synonyms, and vectors in which synonyms are near.
#[derive(Clone, Debug)]
pub struct Language {
    /// The list.
    pub synonyms: Arc<SynonymList>,
    /// From the sentences, then drawn together and apart by synonyms and antonyms.
    pub vectors: Arc<WordVectors>,
    /// Where the pairs are from.
    pub source: String,
}

impl Language {
    /// From sentences and a user's file of synonyms; without one from the PPDB's where it is, else from our own list.
    ///
    /// # Errors
    /// Those of files that are there and cannot be read, or were named and are not there.
    pub fn learn(train: &Corpus, vocabulary: &Vocabulary, file: Option<&Path>) -> Result<Self> {
        let own = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let folder = synonyms_folder();
        let (synonyms, antonyms, source): (Pairs, Pairs, String) = match file {
            Some(file) => (read_pairs(file)?, own(ANTONYMS), file.display().to_string()),
            None if folder.is_dir() => {
                let mut antonyms = read_pairs(folder.join("ppdb_antonyms.txt"))?;
                antonyms.extend(read_pairs(folder.join("wordnet_antonyms.txt"))?);
                (read_pairs(folder.join("ppdb_synonyms.txt"))?, antonyms, "PPDB and WordNet".into())
            }
            None => (own(SYNONYMS), own(ANTONYMS), "a short list of our own".into()),
        };
        let dimension = DIMENSION.min(vocabulary.words().len());
        let vectors = Ppmi::new(dimension)?.train(train.texts(), vocabulary)?;
        let vectors = CounterFitting::new().fit(&vectors, &synonyms, &antonyms)?;
        Ok(Self { synonyms: Arc::new(SynonymList::new(synonyms)), vectors: Arc::new(vectors), source })
    }
}

/// The folder of lists of synonyms beside that of the reviews.
fn synonyms_folder() -> PathBuf {
    Corpus::movie_reviews_folder().with_file_name("synonyms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_pairs_are_of_different_words() {
        for (a, b) in SYNONYMS.iter().chain(ANTONYMS) {
            assert!(a != b && !a.is_empty() && !b.is_empty());
        }
        let list = SynonymList::new(SYNONYMS.iter().copied());
        assert!(ANTONYMS.iter().all(|(a, b)| !list.contains(a, b)));
    }

    #[test]
    fn language_is_learned_from_a_users_file() {
        let corpus = Corpus::opinions(400, 1).unwrap();
        let vocabulary = Vocabulary::build(corpus.texts(), 2, 1000).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mine.txt");
        std::fs::write(&file, "wonderful superb\n").unwrap();
        let language = Language::learn(&corpus, &vocabulary, Some(&file)).unwrap();
        assert!(language.synonyms.contains("superb", "wonderful"));
        assert!(language.vectors.cosine("superb", "wonderful") > language.vectors.cosine("wonderful", "awful"));
        let error =
            Language::learn(&corpus, &vocabulary, Some(&folder.path().join("none.txt"))).unwrap_err().to_string();
        assert!(error.contains("none.txt"), "{error}");
    }
}
