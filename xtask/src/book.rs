//! `book`: renders the mdBook sources in `docs/` to plain HTML that needs no network and no script, and checks every
//! link in them. mdBook itself builds the same sources (`docs/book.toml`); this takes no minutes to install, fails on
//! a broken link and turns formulas into MathML.

mod page;
mod serve;
mod summary;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{files, process};
use page::{Page, escape};
use summary::{Entry, Summary};

const STYLE: &str = include_str!("book/style.css");

#[derive(Deserialize)]
struct File {
    book: Config,
}

#[derive(Deserialize)]
struct Config {
    title: String,
    #[serde(default = "default_source")]
    src: PathBuf,
    #[serde(default = "default_language")]
    language: String,
}

fn default_source() -> PathBuf {
    "src".into()
}

fn default_language() -> String {
    "en".into()
}

/// Builds the book; with a port, serves it there until the program is stopped.
pub fn run(port: Option<u16>) -> Result<ExitCode> {
    let folder = build()?;
    println!("{}", folder.join("index.html").display());
    if let Some(port) = port {
        serve::serve(port, &folder, build)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the book of this repository and returns its folder.
pub fn build() -> Result<PathBuf> {
    let output = process::target_dir().join("book");
    build_from(&process::root().join("docs"), &output)?;
    Ok(output)
}

/// Builds the book in the folder `docs`. The old output stays until the new one is complete.
fn build_from(docs: &Path, output: &Path) -> Result<()> {
    let config_file = docs.join("book.toml");
    let config = toml::from_str::<File>(&files::read(&config_file)?)
        .with_context(|| format!("{} is not a book's configuration", config_file.display()))?
        .book;
    let source = docs.join(&config.src);
    let book = Book::load(&config, &source)?;
    book.check_links()?;

    let new = output.with_extension("new");
    let describe = || format!("cannot write {}", output.display());
    if new.exists() {
        fs::remove_dir_all(&new).with_context(describe)?;
    }
    for (path, content) in book.html() {
        files::write(&new.join(path), content.as_bytes())?;
    }
    files::write(&new.join("style.css"), STYLE.as_bytes())?;
    for asset in &book.assets {
        let content = fs::read(source.join(asset)).with_context(|| format!("cannot read {}", asset.display()))?;
        files::write(&new.join(asset), &content)?;
    }
    if output.exists() {
        fs::remove_dir_all(output).with_context(describe)?;
    }
    fs::rename(&new, output).with_context(describe)
}

/// A whole book in memory. Paths are relative to its sources.
struct Book<'a> {
    config: &'a Config,
    summary: Summary,
    pages: BTreeMap<PathBuf, Page>,
    /// Files to copy as they are.
    assets: BTreeSet<PathBuf>,
}

impl<'a> Book<'a> {
    fn load(config: &'a Config, source: &Path) -> Result<Self> {
        let summary = summary::parse(&files::read(&source.join("SUMMARY.md"))?)?;
        let mut pages = BTreeMap::new();
        let mut included = BTreeSet::new();
        for (_, path) in summary.chapters() {
            let text = page::include(&source.join(path), &mut included)?;
            let page = page::render(&text).with_context(|| path.display().to_string())?;
            if pages.insert(path.to_path_buf(), page).is_some() {
                bail!("SUMMARY.md: {} is there twice", path.display());
            }
        }
        if pages.is_empty() {
            bail!("SUMMARY.md has no chapter");
        }
        let mut assets = BTreeSet::new();
        for file in files::below(source)? {
            let path = file.strip_prefix(source).unwrap_or(&file).to_path_buf();
            if path.extension().is_none_or(|extension| extension != "md") {
                assets.insert(path);
            } else if path != Path::new("SUMMARY.md") && !pages.contains_key(&path) && !included.contains(&file) {
                bail!("{} is in no line of SUMMARY.md", path.display());
            }
        }
        Ok(Self { config, summary, pages, assets })
    }

    /// Fails with every link that leads nowhere.
    fn check_links(&self) -> Result<()> {
        let broken: Vec<String> = self
            .pages
            .iter()
            .flat_map(|(path, page)| page.links.iter().map(move |link| (path, link)))
            .filter_map(|(path, link)| Some(format!("{}: {link}: {}", path.display(), self.why_broken(path, link)?)))
            .collect();
        if !broken.is_empty() {
            bail!("{} broken links in the book\n{}", broken.len(), broken.join("\n"));
        }
        Ok(())
    }

    fn why_broken(&self, from: &Path, link: &str) -> Option<String> {
        if page::is_external(link) {
            return None;
        }
        let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
        let Some(path) = resolve(from, path) else {
            return Some("leaves the book".to_string());
        };
        match self.pages.get(&path) {
            Some(page) if anchor.is_empty() || page.anchors.contains(anchor) => None,
            Some(_) => Some(format!("{} has no heading #{anchor}", path.display())),
            None if self.assets.contains(&path) => None,
            None => Some(format!("{} does not exist", path.display())),
        }
    }

    /// All pages as `(path, HTML)`, an `index.html` among them.
    fn html(&self) -> Vec<(PathBuf, String)> {
        let chapters = self.summary.chapters();
        let neighbour = |place: Option<usize>| place.and_then(|place| chapters.get(place)).copied();
        let mut out: Vec<(PathBuf, String)> = chapters
            .iter()
            .enumerate()
            .map(|(place, (name, path))| {
                let around = [neighbour(place.checked_sub(1)), neighbour(Some(place + 1))];
                (page::html_path(path), self.page_html(name, path, around))
            })
            .collect();
        let first = page::html_path(chapters[0].1);
        if !out.iter().any(|(path, _)| path == Path::new("index.html")) {
            let to = escape(&first.to_string_lossy());
            let html = format!(
                "<!doctype html>\n<meta charset=\"utf-8\">\n<meta http-equiv=\"refresh\" content=\"0; url={to}\">\n<title>{title}</title>\n<a href=\"{to}\">{title}</a>\n",
                title = escape(&self.config.title)
            );
            out.push(("index.html".into(), html));
        }
        out
    }

    fn page_html(&self, name: &str, path: &Path, [previous, next]: [Option<(&str, &Path)>; 2]) -> String {
        let up = "../".repeat(path.components().count() - 1);
        let href = |to: &Path| format!("{up}{}", escape(&page::html_path(to).to_string_lossy()));
        let mut sidebar = String::new();
        let mut open = 0;
        for entry in &self.summary.entries {
            match entry {
                Entry::Part(title) => {
                    sidebar += &"</li></ul>".repeat(std::mem::take(&mut open));
                    sidebar += &format!("<h2>{}</h2>\n", escape(title));
                }
                Entry::Chapter { name, path: to, depth } => {
                    let level = depth + 1;
                    if open < level {
                        sidebar += &"<ul>".repeat(level - open);
                    } else {
                        sidebar += &"</li></ul>".repeat(open - level);
                        sidebar += "</li>\n";
                    }
                    open = level;
                    let current = if to == path { " aria-current=\"page\"" } else { "" };
                    sidebar += &format!("<li><a href=\"{}\"{current}>{}</a>", href(to), escape(name));
                }
            }
        }
        sidebar += &"</li></ul>".repeat(open);
        let step = |rel: &str, marks: [&str; 2], to: Option<(&str, &Path)>| {
            to.map_or_else(String::new, |(name, path)| {
                format!("<a rel=\"{rel}\" href=\"{}\">{}{}{}</a>", href(path), marks[0], escape(name), marks[1])
            })
        };
        format!(
            "<!doctype html>\n<html lang=\"{language}\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{name} - {title}</title>\n\
             <link rel=\"stylesheet\" href=\"{up}style.css\">\n</head>\n<body>\n\
             <a class=\"skip\" href=\"#content\">Skip to the text</a>\n\
             <nav class=\"sidebar\" aria-label=\"Chapters\">\n<p class=\"title\">{title}</p>\n{sidebar}\n</nav>\n\
             <main id=\"content\">\n{body}\n<nav class=\"around\" aria-label=\"Previous and next\">{previous}{next}</nav>\n\
             </main>\n</body>\n</html>\n",
            language = escape(&self.config.language),
            name = escape(name),
            title = escape(&self.config.title),
            body = self.pages[path].html,
            previous = step("prev", ["&larr; ", ""], previous),
            next = step("next", ["", " &rarr;"], next),
        )
    }
}

/// The source that a link in the page `from` leads to; none if that lies outside of the book.
fn resolve(from: &Path, link: &str) -> Option<PathBuf> {
    if link.is_empty() {
        return Some(from.to_path_buf());
    }
    let mut path = from.parent()?.to_path_buf();
    for part in Path::new(link).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir if path.pop() => {}
            _ => return None,
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Scratch;

    fn book(pages: &[(&str, &str)]) -> Result<Scratch> {
        let name = std::thread::current().name().unwrap_or("book").replace("::", "-");
        let scratch = Scratch::new(&name);
        files::write(&scratch.0.join("docs/book.toml"), b"[book]\ntitle = \"A & B\"\n")?;
        for (path, text) in pages {
            files::write(&scratch.0.join("docs/src").join(path), text.as_bytes())?;
        }
        Ok(scratch)
    }

    fn error_of(pages: &[(&str, &str)]) -> String {
        let build = || build_from(&book(pages)?.0.join("docs"), &std::env::temp_dir().join("crucible-never-written"));
        build().err().map(|error| format!("{error:#}")).unwrap_or_default()
    }

    const SUMMARY: (&str, &str) =
        ("SUMMARY.md", "# Summary\n\n[Start](start.md)\n\n# Part\n\n- [One](part/one.md)\n  - [Two](part/two.md)\n");

    #[test]
    fn a_book_is_rendered_with_links_between_its_pages() -> Result<()> {
        let scratch = book(&[
            SUMMARY,
            ("start.md", "# Start\n\nSee [two](part/two.md#the-end) and ![a plot](plot.svg).\n"),
            ("part/one.md", "# One\n\n[back](../start.md)\n"),
            ("part/two.md", "# Two\n\n## The end\n\n[above](#two)\n"),
            ("plot.svg", "<svg/>"),
        ])?;
        let output = scratch.0.join("book");
        // Twice: the second time there is an old one to replace.
        for _ in 0..2 {
            build_from(&scratch.0.join("docs"), &output)?;
        }
        let start = files::read(&output.join("start.html"))?;
        assert!(start.contains("<title>Start - A &amp; B</title>"), "{start}");
        assert!(start.contains("href=\"part/two.html#the-end\""), "{start}");
        assert!(start.contains("<h2>Part</h2>"), "{start}");
        assert!(start.contains("<a href=\"start.html\" aria-current=\"page\">"), "{start}");
        let two = files::read(&output.join("part/two.html"))?;
        assert!(two.contains("href=\"../style.css\"") && two.contains("href=\"../part/one.html\""), "{two}");
        assert!(two.contains("<h2 id=\"the-end\">"), "{two}");
        assert!(files::read(&output.join("index.html"))?.contains("url=start.html"));
        assert_eq!(files::read(&output.join("plot.svg"))?, "<svg/>");
        assert!(!scratch.0.join("book.new").exists());
        Ok(())
    }

    #[test]
    fn every_broken_link_is_named() {
        let error = error_of(&[
            SUMMARY,
            (
                "start.md",
                "[a](none.md) [b](part/two.md#none) [c](../README.md) ![d](none.png) [ok](https://example.org)",
            ),
            ("part/one.md", "[ok](two.md)"),
            ("part/two.md", "# Two"),
        ]);
        assert!(error.starts_with("4 broken links"), "{error}");
        for part in ["none.md does not exist", "has no heading #none", "README.md: leaves the book", "none.png does"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn pages_and_summary_must_agree() {
        let pages = [SUMMARY, ("start.md", ""), ("part/one.md", ""), ("part/two.md", "")];
        assert!(error_of(&pages[..3]).contains("two.md"));
        assert!(error_of(&[&pages[..], &[("lost.md", "")]].concat()).contains("lost.md is in no line"));
        assert!(error_of(&[("SUMMARY.md", "# Summary\n")]).contains("no chapter"));
    }

    #[test]
    fn a_fragment_is_included_and_is_no_page_of_its_own() -> Result<()> {
        let scratch = book(&[
            ("SUMMARY.md", "[Start](start.md)\n"),
            ("start.md", "{{#include table.md}}\n\nend"),
            ("table.md", "| a |\n|---|\n| 1 |\n"),
        ])?;
        let output = scratch.0.join("book");
        build_from(&scratch.0.join("docs"), &output)?;
        assert!(files::read(&output.join("start.html"))?.contains("<td>1</td>"));
        assert!(!output.join("table.html").exists());
        Ok(())
    }
}
