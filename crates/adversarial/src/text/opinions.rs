//! Short opinions on films from a small grammar.

use std::collections::HashSet;

use core_tensor::Random;

/// How many different sentences are to be had.
pub(super) const LARGEST: usize = 20_000;

/// What a sentence is made of: words, and slots in braces that stand for a word of their list. `{good}` and `{bad}` are those of the
/// sentence's own opinion and of the other one.
const NEUTRAL: &[(&str, &[&str])] = &[
    (
        "film",
        &["film", "movie", "picture", "drama", "comedy", "thriller", "sequel", "documentary", "western", "romance"],
    ),
    (
        "part",
        &["plot", "script", "dialogue", "ending", "cast", "camera work", "score", "direction", "opening", "pacing"],
    ),
    ("who", &["the director", "the lead actress", "the writer", "the young actor", "the whole cast", "the composer"]),
    ("we", &["i", "my sister", "everyone in the room", "most people", "a patient viewer", "the audience"]),
    ("when", &["from the first scene", "by the end", "after ten minutes", "from start to finish", "for two hours"]),
    ("very", &["very", "quite", "truly", "rather", "utterly", "simply", "remarkably"]),
    (
        "about",
        &["about a family", "about growing old", "set in a small town", "from a famous novel", "about two thieves"],
    ),
];

const POSITIVE: &[(&str, &[&str])] = &[
    (
        "adjective",
        &[
            "wonderful",
            "charming",
            "gripping",
            "clever",
            "moving",
            "brilliant",
            "fresh",
            "delightful",
            "warm",
            "honest",
            "witty",
            "beautiful",
            "superb",
            "tender",
            "thoughtful",
            "stunning",
            "lively",
            "graceful",
            "memorable",
            "excellent",
        ],
    ),
    (
        "noun",
        &["triumph", "joy", "treat", "delight", "masterpiece", "pleasure", "gem", "success", "surprise", "marvel"],
    ),
    ("verb", &["shines", "delights", "works", "succeeds", "soars", "sparkles", "impresses", "convinces"]),
    ("felt", &["loved", "enjoyed", "admired", "adored", "cheered", "praised", "treasured"]),
    ("advice", &["see it twice", "do not miss it", "take your friends", "it is worth every minute", "tell everyone"]),
];

const NEGATIVE: &[(&str, &[&str])] = &[
    (
        "adjective",
        &[
            "dull",
            "boring",
            "tedious",
            "clumsy",
            "lifeless",
            "awful",
            "stale",
            "dreary",
            "cold",
            "false",
            "witless",
            "ugly",
            "terrible",
            "shallow",
            "thoughtless",
            "dreadful",
            "tired",
            "awkward",
            "forgettable",
            "poor",
        ],
    ),
    ("noun", &["failure", "bore", "mess", "disaster", "disappointment", "chore", "blunder", "waste", "letdown", "dud"]),
    ("verb", &["fails", "drags", "stumbles", "disappoints", "sinks", "falters", "bores", "annoys"]),
    ("felt", &["hated", "disliked", "regretted", "endured", "mocked", "loathed", "suffered"]),
    (
        "advice",
        &["stay at home", "read a book instead", "save your money", "it is not worth the ticket", "warn everyone"],
    ),
];

const SENTENCES: &[&str] = &[
    "a {very} {adjective} {film} {about} .",
    "the {part} is {very} {adjective} , and the {part} is {adjective} too .",
    "{we} {felt} this {adjective} {film} {when} .",
    "{who} {verb} {when} , and the {film} is a {noun} .",
    "this {film} {about} is a {noun} : {advice} .",
    "although the {part} is {!adjective} , the {film} {verb} {when} .",
    "what a {noun} ! the {part} is {adjective} and {who} {verb} .",
    "{we} {felt} the {part} , the {part} and the {adjective} {part} .",
    "it is {adjective} , {adjective} and {very} {adjective} ; {advice} .",
    "some call this {film} {!adjective} , but it {verb} and it is {very} {adjective} .",
    "{when} this {film} {about} {verb} , thanks to {who} and a {adjective} {part} .",
    "a {noun} of a {film} with a {very} {adjective} {part} .",
];

/// So many different sentences, negative (0) and positive (1) in turn.
pub(super) fn write(count: usize, seed: u64) -> (Vec<String>, Vec<usize>) {
    let mut random = Random::new(seed).fork("opinions");
    let mut seen = HashSet::with_capacity(count);
    let mut texts = Vec::with_capacity(count);
    while texts.len() < count {
        let text = sentence(texts.len() % 2 == 1, &mut random);
        if seen.insert(text.clone()) {
            texts.push(text);
        }
    }
    let labels = (0..count).map(|i| i % 2).collect();
    (texts, labels)
}

fn sentence(positive: bool, random: &mut Random) -> String {
    let (own, other) = if positive { (POSITIVE, NEGATIVE) } else { (NEGATIVE, POSITIVE) };
    let mut used: Vec<&str> = Vec::new();
    let mut text = String::new();
    let mut rest = pick(SENTENCES, random);
    while let Some((before, after)) = rest.split_once('{') {
        let (slot, after) = after.split_once('}').expect("every brace is closed");
        let (lists, name) = match slot.strip_prefix('!') {
            Some(name) => (other, name),
            None => (own, slot),
        };
        let list = NEUTRAL.iter().chain(lists).find(|(known, _)| *known == name).expect("every slot has a list").1;
        // No word twice in a sentence: lists are longer than there are slots of a name.
        let word = loop {
            let word = pick(list, random);
            if !used.contains(&word) {
                break word;
            }
        };
        used.push(word);
        text += before;
        if (text.ends_with(" a ") || text == "a ") && (word.starts_with(['a', 'e', 'i', 'o', 'u']) || word == "honest")
        {
            text.pop();
            text += "n ";
        }
        text += word;
        rest = after;
    }
    text + rest
}

fn pick<'a>(list: &[&'a str], random: &mut Random) -> &'a str {
    list[random.below(list.len() as u64) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opinions_are_different_and_seeded() {
        let (texts, labels) = write(LARGEST, 5);
        assert_eq!(texts.iter().collect::<HashSet<_>>().len(), LARGEST);
        assert_eq!(labels.iter().sum::<usize>(), LARGEST / 2);
        assert!(texts.iter().all(|text| !text.contains(['{', '}'])));
        assert_eq!(write(100, 5).0, texts[..100]);
        assert_ne!(write(100, 6).0, texts[..100]);
    }
}
