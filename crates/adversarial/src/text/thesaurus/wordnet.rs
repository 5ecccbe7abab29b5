//! WordNet 3.0.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use super::Thesaurus;
use crate::error::{Error, Result};
use crate::text::constraint::{PartOfSpeech, PartOfSpeechTagger, Parts};

/// WordNet: English words in sets of synonyms, read from its database files.
///
/// The synonyms of a word are the other words of its sets, the most frequent sense first, nouns before verbs, adjectives and
/// adverbs. A word that is not in the index itself is looked up by its base forms: those of the exception lists (`geese` →
/// `goose`), and those that WordNet's rules of detachment give (`films` → `film`, `watched` → `watch`). Synonyms are base forms then:
/// they are not inflected again. Phrases (`motion picture`) are left out unless [`phrases`](Self::phrases) asks for them.
///
/// The same files tell which parts of speech a word can be: WordNet is a [`PartOfSpeechTagger`], for
/// [`SamePartOfSpeech`](crate::text::SamePartOfSpeech).
///
/// Cost: the whole of WordNet 3.0 is read in less than 0.2 s of one core.
///
/// G. A. Miller, "WordNet: a lexical database for English", Communications of the ACM, 1995; file formats in its manual pages
/// `wndb(5)` and `morphy(7)`.
///
/// ```no_run
/// use adversarial::text::{Thesaurus, WordNet};
///
/// let wordnet = WordNet::installed()?;
/// println!("{:?}", wordnet.synonyms("film"));
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct WordNet {
    /// The words of each set.
    sets: Vec<Vec<Box<str>>>,
    /// For each part of speech the sets of a lemma, by numbers in `sets`.
    lemmas: [HashMap<Box<str>, Vec<u32>>; 4],
    /// For each part of speech the base form of inflected ones.
    exceptions: [HashMap<Box<str>, Box<str>>; 4],
    phrases: bool,
}

const PARTS: [(PartOfSpeech, &str); 4] = [
    (PartOfSpeech::Noun, "noun"),
    (PartOfSpeech::Verb, "verb"),
    (PartOfSpeech::Adjective, "adj"),
    (PartOfSpeech::Adverb, "adv"),
];

/// Endings and what they are replaced with, for each part of speech.
const DETACHMENT: [&[(&str, &str)]; 4] = [
    &[
        ("s", ""),
        ("ses", "s"),
        ("xes", "x"),
        ("zes", "z"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("men", "man"),
        ("ies", "y"),
    ],
    &[("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")],
    &[("er", ""), ("est", ""), ("er", "e"), ("est", "e")],
    &[],
];

impl WordNet {
    /// Reads `/usr/share/wordnet`, where Debian's package `wordnet-base` puts it.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn installed() -> Result<Self> {
        Self::read("/usr/share/wordnet")
    }

    /// Reads a folder with the files `index.*` and `data.*` for `noun`, `verb`, `adj` and `adv`, and `*.exc` where they are.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file that is not there, or the line that is not in the format of `wndb(5)`.
    pub fn read(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let mut sets = Vec::new();
        let mut lemmas: [HashMap<Box<str>, Vec<u32>>; 4] = Default::default();
        let mut exceptions: [HashMap<Box<str>, Box<str>>; 4] = Default::default();
        for (place, (_, name)) in PARTS.iter().enumerate() {
            let mut offsets = HashMap::new();
            for_lines(&folder.join(format!("data.{name}")), |line| {
                let (offset, words) = set(line)?;
                offsets.insert(offset, sets.len() as u32);
                sets.push(words);
                Some(())
            })?;
            for_lines(&folder.join(format!("index.{name}")), |line| {
                let (lemma, senses) = senses(line)?;
                let senses = senses.iter().map(|offset| offsets.get(offset).copied()).collect::<Option<Vec<u32>>>()?;
                lemmas[place].insert(lemma, senses);
                Some(())
            })?;
            let path = folder.join(format!("{name}.exc"));
            if path.exists() {
                for_lines(&path, |line| {
                    let mut words = line.split_whitespace().map(plain);
                    exceptions[place].insert(words.next()?, words.next()?);
                    Some(())
                })?;
            }
        }
        Ok(Self { sets, lemmas, exceptions, phrases: false })
    }

    /// Whether synonyms of more than one word are given.
    pub fn phrases(self, phrases: bool) -> Self {
        Self { phrases, ..self }
    }

    /// The base forms of a word, in small letters, that are lemmas of a part of speech: the word itself where it is one.
    fn bases(&self, place: usize, word: &str) -> Vec<String> {
        let lemmas = &self.lemmas[place];
        if lemmas.contains_key(word) {
            return vec![word.to_owned()];
        }
        if let Some(base) = self.exceptions[place].get(word) {
            return vec![base.to_string()];
        }
        let detached = DETACHMENT[place].iter().filter_map(|(ending, instead)| {
            let stem = word.strip_suffix(ending).filter(|stem| !stem.is_empty())?;
            Some(format!("{stem}{instead}")).filter(|base| lemmas.contains_key(base.as_str()))
        });
        let mut bases: Vec<String> = Vec::new();
        detached.for_each(|base| {
            if !bases.contains(&base) {
                bases.push(base);
            }
        });
        bases
    }
}

impl Thesaurus for WordNet {
    fn synonyms(&self, word: &str) -> Vec<String> {
        let word = word.to_lowercase();
        let mut found = Vec::new();
        let mut seen = HashSet::from([word.clone()]);
        for (place, lemmas) in self.lemmas.iter().enumerate() {
            for base in self.bases(place, &word) {
                let sets = lemmas.get(base.as_str()).into_iter().flatten();
                seen.insert(base);
                for synonym in sets.flat_map(|set| &self.sets[*set as usize]) {
                    if (self.phrases || !synonym.contains(' ')) && seen.insert(synonym.to_lowercase()) {
                        found.push(synonym.to_string());
                    }
                }
            }
        }
        found
    }
}

impl PartOfSpeechTagger for WordNet {
    fn parts(&self, word: &str) -> Parts {
        let word = word.to_lowercase();
        let known = PARTS.iter().enumerate().filter(|(place, _)| !self.bases(*place, &word).is_empty());
        known.fold(Parts::NONE, |parts, (_, (part, _))| parts.with(*part))
    }
}

/// Goes through the lines of a database file, without those of the licence, which begin with two spaces.
fn for_lines(path: &Path, mut each: impl FnMut(&str) -> Option<()>) -> Result<()> {
    let wrong = |problem: String| Error::Data { path: path.to_path_buf(), problem };
    let text = fs::read_to_string(path)
        .map_err(|error| wrong(format!("{error}; it is part of WordNet 3.0, on Debian in the package wordnet-base")))?;
    for (number, line) in
        text.lines().enumerate().filter(|(_, line)| !line.starts_with("  ") && !line.trim().is_empty())
    {
        each(line).ok_or_else(|| wrong(format!("line {}: not a line of WordNet's database", number + 1)))?;
    }
    Ok(())
}

/// `offset lexical-file type count(hex) word id word id … | gloss`: the offset and the words.
fn set(line: &str) -> Option<(u32, Vec<Box<str>>)> {
    let mut fields = line.split_ascii_whitespace();
    let offset = fields.next()?.parse().ok()?;
    let count = usize::from_str_radix(fields.nth(2)?, 16).ok()?;
    let mut words = Vec::with_capacity(count.min(256));
    for _ in 0..count {
        // Adjectives carry where they may stand: `ready_to_hand(p)`.
        let word = fields.next()?;
        words.push(plain(word.split('(').next()?));
        fields.next()?;
    }
    Some((offset, words))
}

/// `lemma part sets pointers [pointer…] sets tagged offset…`: the lemma and the offsets.
fn senses(line: &str) -> Option<(Box<str>, Vec<u32>)> {
    let mut fields = line.split_ascii_whitespace();
    let lemma = plain(fields.next()?);
    let count: usize = fields.nth(1)?.parse().ok()?;
    let pointers: usize = fields.next()?.parse().ok()?;
    let offsets = fields.skip(pointers + 2).map(|offset| offset.parse().ok()).collect::<Option<Vec<u32>>>()?;
    (offsets.len() == count).then_some((lemma, offsets))
}

fn plain(word: &str) -> Box<str> {
    word.replace('_', " ").into()
}

#[cfg(test)]
pub(in crate::text) mod tests {
    use super::*;

    /// A small WordNet in the format of the large one.
    pub(in crate::text) fn small() -> (tempfile::TempDir, WordNet) {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let licence = "  1 This software and database is being provided to you\n";
        write(
            "data.noun",
            &format!(
                "{licence}00000100 10 n 05 movie 0 film 0 picture 2 motion_picture 0 Flick 3 001 @ 00000300 n 0000 | a form of entertainment  \n\
                 00000200 06 n 02 film 1 photographic_film 0 000 | photographic material  \n\
                 00000300 03 n 01 goose 0 000 | a bird  \n"
            ),
        );
        write(
            "index.noun",
            &format!(
                "{licence}film n 2 1 @ 2 1 00000100 00000200  \nflick n 1 0 1 0 00000100  \ngoose n 1 0 1 0 00000300  \n\
                 motion_picture n 1 0 1 0 00000100  \nmovie n 1 1 @ 1 1 00000100  \n"
            ),
        );
        write("noun.exc", "geese goose\n");
        write("data.verb", "00000100 30 v 02 film 0 shoot 4 000 01 + 08 00 | make a film  \n");
        write("index.verb", "film v 1 0 1 0 00000100  \nshoot v 1 0 1 0 00000100  \n");
        write(
            "data.adj",
            "00000100 00 s 02 handy 0 ready(p) 0 000 | easy to reach  \n00000200 00 a 02 nice 0 fine 1 000 | good  \n",
        );
        write(
            "index.adj",
            "handy a 1 0 1 0 00000100  \nready a 1 0 1 0 00000100  \nnice a 1 0 1 0 00000200  \nfine a 1 0 1 0 00000200  \n",
        );
        write("data.adv", "");
        write("index.adv", "");
        let wordnet = WordNet::read(folder.path()).unwrap();
        (folder, wordnet)
    }

    #[test]
    fn synonyms_come_sense_by_sense_and_by_base_forms() {
        let (_folder, wordnet) = small();
        assert_eq!(wordnet.synonyms("Film"), ["movie", "picture", "Flick", "shoot"]);
        assert_eq!(wordnet.synonyms("films"), ["movie", "picture", "Flick", "shoot"]);
        assert_eq!(wordnet.synonyms("filming"), ["shoot"]);
        assert_eq!(wordnet.synonyms("handy"), ["ready"]);
        assert_eq!(wordnet.synonyms("nicest"), ["fine"]);
        assert!(wordnet.synonyms("geese").is_empty() && wordnet.synonyms("unheard").is_empty());
        let phrases = wordnet.phrases(true);
        assert_eq!(phrases.synonyms("movie"), ["film", "picture", "motion picture", "Flick"]);
    }

    #[test]
    fn parts_of_speech_are_those_of_the_index() {
        let (_folder, wordnet) = small();
        assert_eq!(wordnet.parts("films"), Parts::NONE.with(PartOfSpeech::Noun).with(PartOfSpeech::Verb));
        assert_eq!(wordnet.parts("Geese"), Parts::NONE.with(PartOfSpeech::Noun));
        assert!(wordnet.parts("unheard").is_empty() && wordnet.parts("s").is_empty());
    }

    #[test]
    fn what_is_not_there_or_not_right_is_named() {
        let (folder, _) = small();
        fs::write(folder.path().join("index.adv"), "here r 1 0 1 0 00000999  \n").unwrap();
        let error = WordNet::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("index.adv: line 1: not a line of WordNet's database"), "{error}");
        fs::remove_file(folder.path().join("data.adj")).unwrap();
        let error = WordNet::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("data.adj: ") && error.contains("wordnet-base"), "{error}");
    }

    #[test]
    fn the_whole_of_wordnet_is_read_where_it_is_installed() {
        if !Path::new("/usr/share/wordnet/data.noun").exists() {
            eprintln!("/usr/share/wordnet is not there: the package wordnet-base is not installed");
            return;
        }
        let wordnet = WordNet::installed().unwrap();
        assert!(wordnet.synonyms("movies").contains(&"film".to_owned()));
        assert!(wordnet.synonyms("dreadful").contains(&"awful".to_owned()));
        assert!(wordnet.parts("quickly").contains(PartOfSpeech::Adverb));
    }
}
