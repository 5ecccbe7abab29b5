//! Pairs of words in a file, as lists of synonyms and antonyms come.

use std::path::Path;

use crate::error::Result;
use crate::text::files::{self, Encoding};

/// Reads pairs of words, one pair a line, the words parted by white space; empty lines are skipped. A prefix as in `en_good`, by which
/// some lists name the language, is taken off.
///
/// # Errors
/// [`Error::Data`](crate::Error::Data) naming the file, and the line that has not two words.
///
/// ```
/// let path = std::env::temp_dir().join(format!("pairs-{}.txt", std::process::id()));
/// std::fs::write(&path, "good fine\nen_bad en_awful\n").unwrap();
/// let pairs = adversarial::text::read_pairs(&path)?;
/// assert_eq!(pairs[1], ("bad".to_string(), "awful".to_string()));
/// # std::fs::remove_file(&path).unwrap();
/// # Ok::<(), adversarial::Error>(())
/// ```
pub fn read_pairs(path: impl AsRef<Path>) -> Result<Vec<(String, String)>> {
    let path = path.as_ref();
    let text = files::read(path, Encoding::Utf8)?;
    let bare = |word: &str| word.strip_prefix("en_").unwrap_or(word).to_string();
    let mut pairs = Vec::new();
    for (index, line) in text.lines().enumerate() {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            [] => {}
            [one, other] => pairs.push((bare(one), bare(other))),
            _ => return Err(files::wrong(path, format!("line {}: expected two words, found {line:?}", index + 1))),
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_no_pairs_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pairs.txt");
        std::fs::write(&path, "good  fine \n\nbad\tawful\r\n").unwrap();
        let pairs = [("good", "fine"), ("bad", "awful")].map(|(a, b)| (a.to_string(), b.to_string()));
        assert_eq!(read_pairs(&path).unwrap(), pairs);
        for line in ["one", "one two three"] {
            std::fs::write(&path, format!("a b\n{line}\n")).unwrap();
            let error = read_pairs(&path).unwrap_err().to_string();
            assert!(error.contains("pairs.txt: line 2: expected two words"), "{error}");
        }
        assert!(read_pairs(folder.path().join("none")).unwrap_err().to_string().contains("none"));
    }
}
