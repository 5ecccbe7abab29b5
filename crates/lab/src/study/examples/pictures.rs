//! Pictures in the report: before, what is added, after.

use std::fmt::Write as _;

use crate::report::escape;
use crate::report::image::colour_address;
use crate::scene::drawing::bytes;

/// What a network reads in a picture.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Read {
    pub class: &'static str,
    /// Its probability.
    pub confidence: f64,
    #[serde(skip)]
    pub pixels: Vec<f32>,
}

/// A picture before and after.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Pair {
    /// How it is seen.
    pub view: String,
    pub before: Read,
    pub after: Read,
}

/// The pairs with what makes the difference between them, all pictures of the same form as squares.
pub fn figure(title: &str, added: (&str, &[f32], usize), pairs: &[Pair], side: usize) -> String {
    let mut html = format!("<figure class=\"triples\">\n<figcaption><h3>{}</h3></figcaption>\n<ul>", escape(title));
    let image = |alt: &str, pixels: &[f32], width: usize| {
        format!("<img alt=\"{}\" src=\"{}\"/>", escape(alt), colour_address(&bytes(pixels), width))
    };
    let (name, print, width) = added;
    for pair in pairs {
        let said = |read: &Read| format!("{} ({:.0} %)", read.class, 100.0 * read.confidence);
        let _ = write!(
            html,
            "<li>{}<span>+</span>{}<span>=</span>{}<small>{}: <span class=\"name\">{}</span> to <span class=\"name\">{}</span></small></li>",
            image(pair.before.class, &pair.before.pixels, side),
            image(name, print, width),
            image(pair.after.class, &pair.after.pixels, side),
            escape(&pair.view),
            escape(&said(&pair.before)),
            escape(&said(&pair.after)),
        );
    }
    html += "</ul>\n</figure>\n";
    html
}
