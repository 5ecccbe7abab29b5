//! One page: Markdown to HTML, with the anchors it offers and the links it follows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use pulldown_cmark::{CodeBlockKind, CowStr, Event, Options, Parser, Tag, TagEnd, html};
use pulldown_latex::config::DisplayMode;
use pulldown_latex::{RenderConfig, Storage};

use crate::files;

/// A rendered page.
pub struct Page {
    pub html: String,
    /// Ids of its headings.
    pub anchors: BTreeSet<String>,
    /// Where its links and images lead, as written.
    pub links: Vec<String>,
}

/// Reads a page; a line `{{#include FILE}}` is replaced by the file, whose path is put into `included`.
pub fn include(path: &Path, included: &mut BTreeSet<PathBuf>) -> Result<String> {
    let text = files::read(path)?;
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let Some(directive) = line.trim().strip_prefix("{{#") else {
            out += line;
            out.push('\n');
            continue;
        };
        let Some(file) = directive.strip_prefix("include ").and_then(|rest| rest.strip_suffix("}}")) else {
            bail!("{}: {} is not {{{{#include FILE}}}}", path.display(), line.trim());
        };
        let file: PathBuf = path.parent().unwrap_or(path).join(file.trim()).components().collect();
        out += &files::read(&file).with_context(|| path.display().to_string())?;
        included.insert(file);
    }
    Ok(out)
}

/// Renders the text of a page.
pub fn render(text: &str) -> Result<Page> {
    let options = Options::ENABLE_TABLES
        | Options::ENABLE_FOOTNOTES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_HEADING_ATTRIBUTES
        | Options::ENABLE_MATH
        | Options::ENABLE_GFM;
    let source: Vec<Event> = Parser::new_ext(text, options).collect();
    let mut events = Vec::with_capacity(source.len());
    let mut page = Page { html: String::new(), anchors: BTreeSet::new(), links: Vec::new() };
    let mut used = BTreeMap::new();
    let mut in_rust = false;
    for (place, event) in source.iter().enumerate() {
        let event = match event.clone() {
            Event::Start(Tag::Heading { level, id, classes, attrs }) => {
                let id = match id {
                    Some(id) => id.into_string(),
                    None => unique(slug(&heading_text(&source[place..])), &mut used),
                };
                page.anchors.insert(id.clone());
                Event::Start(Tag::Heading { level, id: Some(id.into()), classes, attrs })
            }
            Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
                page.links.push(dest_url.to_string());
                Event::Start(Tag::Link { link_type, dest_url: html_link(&dest_url).into(), title, id })
            }
            Event::Start(Tag::Image { link_type, dest_url, title, id }) => {
                if is_external(&dest_url) {
                    bail!("the image {dest_url} would be fetched from elsewhere");
                }
                page.links.push(dest_url.to_string());
                Event::Start(Tag::Image { link_type, dest_url, title, id })
            }
            Event::Html(text) | Event::InlineHtml(text) if text.contains("src=\"http") => {
                bail!("{} would be fetched from elsewhere", text.trim())
            }
            Event::InlineMath(latex) => Event::InlineHtml(mathml(&latex, DisplayMode::Inline)?.into()),
            Event::DisplayMath(latex) => Event::InlineHtml(mathml(&latex, DisplayMode::Block)?.into()),
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) => {
                let language = info.split([',', ' ']).next().unwrap_or_default().to_string();
                in_rust = language == "rust";
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language.into())))
            }
            Event::End(TagEnd::CodeBlock) => {
                in_rust = false;
                Event::End(TagEnd::CodeBlock)
            }
            Event::Text(code) if in_rust => Event::Text(without_hidden_lines(&code).into()),
            Event::Start(Tag::Table(columns)) => {
                events.push(Event::Html(CowStr::Borrowed("<div class=\"table\">")));
                Event::Start(Tag::Table(columns))
            }
            Event::End(TagEnd::Table) => {
                events.push(Event::End(TagEnd::Table));
                Event::Html(CowStr::Borrowed("</div>\n"))
            }
            other => other,
        };
        events.push(event);
    }
    html::push_html(&mut page.html, events.into_iter());
    Ok(page)
}

/// Whether a link leads out to the network.
pub fn is_external(link: &str) -> bool {
    ["http://", "https://", "mailto:"].iter().any(|scheme| link.starts_with(scheme))
}

/// The HTML file of a source.
pub fn html_path(source: &Path) -> PathBuf {
    // As mdBook has it: a folder's README is its index.
    match source.file_name() {
        Some(name) if name == "README.md" => source.with_file_name("index.html"),
        _ => source.with_extension("html"),
    }
}

/// Text made safe for HTML, in attributes too.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            c => out.push(c),
        }
    }
    out
}

/// The link as it has to read in the rendered page.
fn html_link(link: &str) -> String {
    let (path, anchor) = link.split_at(link.find('#').unwrap_or(link.len()));
    if is_external(link) || !path.ends_with(".md") {
        return link.to_string();
    }
    format!("{}{anchor}", html_path(Path::new(path)).display())
}

fn heading_text(events: &[Event]) -> String {
    let inside = events.iter().take_while(|event| !matches!(event, Event::End(TagEnd::Heading(_))));
    inside
        .filter_map(|event| match event {
            Event::Text(text) | Event::Code(text) | Event::InlineMath(text) => Some(text.as_ref()),
            _ => None,
        })
        .collect()
}

/// The anchor of a heading, as mdBook makes it.
fn slug(title: &str) -> String {
    let kept = title.trim().chars().filter_map(|c| match c {
        c if c.is_alphanumeric() || c == '_' || c == '-' => Some(c),
        c if c.is_whitespace() => Some('-'),
        _ => None,
    });
    kept.flat_map(char::to_lowercase).collect()
}

fn unique(slug: String, used: &mut BTreeMap<String, usize>) -> String {
    let seen = used.entry(slug.clone()).or_default();
    *seen += 1;
    if *seen == 1 { slug } else { format!("{slug}-{}", *seen - 1) }
}

/// Rust code less the lines that are there only to make an example whole: those that start with `# `.
fn without_hidden_lines(code: &str) -> String {
    let hidden = |line: &str| {
        let line = line.trim();
        line == "#" || line.starts_with("# ")
    };
    code.split_inclusive('\n').filter(|line| !hidden(line)).collect()
}

/// A formula as MathML, which browsers show without help.
fn mathml(latex: &str, display_mode: DisplayMode) -> Result<String> {
    let storage = Storage::new();
    // Parsed once for its errors: the renderer would write them into the page.
    for event in pulldown_latex::Parser::new(latex, &storage) {
        if let Err(error) = event {
            bail!("the formula {latex:?}: {error}");
        }
    }
    let mut out = String::new();
    let config = RenderConfig { display_mode, annotation: Some(latex), ..RenderConfig::default() };
    pulldown_latex::push_mathml(&mut out, pulldown_latex::Parser::new(latex, &storage), config)
        .with_context(|| format!("the formula {latex:?}"))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_follow_the_headings_and_are_unique() -> Result<()> {
        let page = render("# Hessian-vector *products*, `H·v`\n\n## A\n\n## A\n\n## B {#own}\n")?;
        let anchors: Vec<&str> = page.anchors.iter().map(String::as_str).collect();
        assert_eq!(anchors, ["a", "a-1", "hessian-vector-products-hv", "own"]);
        assert!(page.html.contains("<h2 id=\"a-1\">"), "{}", page.html);
        Ok(())
    }

    #[test]
    fn links_lead_to_html_and_foreign_ones_stay() {
        assert_eq!(html_link("a/b.md#c"), "a/b.html#c");
        assert_eq!(html_link("a/README.md"), "a/index.html");
        assert_eq!(html_link("#c"), "#c");
        assert_eq!(html_link("plot.svg"), "plot.svg");
        assert_eq!(html_link("https://example.org/x.md"), "https://example.org/x.md");
    }

    #[test]
    fn code_hides_what_only_the_compiler_needs() -> Result<()> {
        let page =
            render("```rust,no_run\n# fn main() {\nlet a = [1];\n#[test]\n#\n# }\n```\n\n```sh\n# a comment\n```\n")?;
        assert!(
            page.html.contains("<pre><code class=\"language-rust\">let a = [1];\n#[test]\n</code>"),
            "{}",
            page.html
        );
        assert!(page.html.contains("# a comment"), "{}", page.html);
        Ok(())
    }

    #[test]
    fn formulas_become_mathml_and_wrong_ones_are_errors() -> Result<()> {
        let page = render("Curvature $v^\\top H v$ and\n\n$$\\frac{\\partial L}{\\partial w_i}$$\n\nfor \\$5.")?;
        assert_eq!(page.html.matches("<math").count(), 2, "{}", page.html);
        assert!(page.html.contains("<mfrac") && page.html.contains("for $5."), "{}", page.html);
        let error = render("$\\nosuch{x}$").err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("nosuch"), "{error}");
        Ok(())
    }

    #[test]
    fn nothing_is_fetched_from_elsewhere() {
        assert!(render("![x](https://example.org/x.png)").is_err());
        assert!(render("<img src=\"https://example.org/x.png\">").is_err());
        assert!(render("[x](https://example.org/x.png)").is_ok());
    }

    #[test]
    fn titles_are_escaped() {
        assert_eq!(escape("a < \"b\" & c>"), "a &lt; &quot;b&quot; &amp; c&gt;");
    }
}
