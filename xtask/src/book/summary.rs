//! The table of contents, `SUMMARY.md`, in mdBook's form.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use pulldown_cmark::{Event, Parser, Tag, TagEnd};

/// The table of contents, in order.
pub struct Summary {
    pub entries: Vec<Entry>,
}

/// A line of the table of contents.
#[derive(Debug, PartialEq)]
pub enum Entry {
    /// A title over the chapters that follow.
    Part(String),
    /// A chapter; its depth is 0 outside of lists and at their first level.
    Chapter { name: String, path: PathBuf, depth: usize },
}

impl Summary {
    /// Name and source of every chapter, in reading order.
    pub fn chapters(&self) -> Vec<(&str, &Path)> {
        let chapters = self.entries.iter().filter_map(|entry| match entry {
            Entry::Chapter { name, path, .. } => Some((name.as_str(), path.as_path())),
            Entry::Part(_) => None,
        });
        chapters.collect()
    }
}

/// Reads the text of `SUMMARY.md`.
pub fn parse(text: &str) -> Result<Summary> {
    let mut entries = Vec::new();
    let mut lists = 0_usize;
    let mut title = String::new();
    let mut link = None;
    let mut first_heading = true;
    for event in Parser::new(text) {
        match event {
            Event::Start(Tag::List(_)) => lists += 1,
            Event::End(TagEnd::List(_)) => lists -= 1,
            Event::Start(Tag::Heading { .. }) => title.clear(),
            Event::End(TagEnd::Heading(_)) => {
                // The first heading is the title of the summary itself, unless chapters stand above it.
                let own_title = std::mem::take(&mut first_heading) && entries.is_empty();
                entries.extend((!own_title).then(|| Entry::Part(std::mem::take(&mut title))));
            }
            Event::Start(Tag::Link { dest_url, .. }) => {
                title.clear();
                link = Some(dest_url.to_string());
            }
            Event::End(TagEnd::Link) => {
                let name = std::mem::take(&mut title);
                let target = link.take().unwrap_or_default();
                if !target.ends_with(".md") {
                    bail!("SUMMARY.md: {name:?} leads to {target:?}, which is not a .md file");
                }
                let path = Path::new(target.trim_start_matches("./")).to_path_buf();
                entries.push(Entry::Chapter { name, path, depth: lists.saturating_sub(1) });
            }
            Event::Text(text) | Event::Code(text) => title += &text,
            _ => {}
        }
    }
    Ok(Summary { entries })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_parts_chapters_and_depths() -> Result<()> {
        let summary = parse(
            "# Summary\n\n[Intro](./intro.md)\n\n# Guide\n\n- [A `b` c](a.md)\n  - [Deep](x/deep.md)\n- [D](d.md)\n\n---\n\n[End](end.md)\n",
        )?;
        let chapter = |name: &str, path: &str, depth| Entry::Chapter { name: name.into(), path: path.into(), depth };
        assert_eq!(
            summary.entries,
            [
                chapter("Intro", "intro.md", 0),
                Entry::Part("Guide".into()),
                chapter("A b c", "a.md", 0),
                chapter("Deep", "x/deep.md", 1),
                chapter("D", "d.md", 0),
                chapter("End", "end.md", 0),
            ]
        );
        assert_eq!(summary.chapters()[3], ("D", Path::new("d.md")));
        Ok(())
    }

    #[test]
    fn a_chapter_without_a_page_is_an_error() {
        let error = parse("- [Later]()\n").err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("Later"), "{error}");
    }
}
