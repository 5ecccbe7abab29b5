//! The study of the lecture's examples: stickers on a stop sign, a printed patch, a T-shirt, captions, sentences.
//!
//! A family of examples is a module with `UNITS` and `run`, which gives a `Section`: numbers, rows of the printed table, chapters.
//! One line in `FAMILIES` adds it to the study.

mod captions;
mod network;
mod pictures;
mod shirt;
mod signs;
mod text;

use serde_json::Value;

use crate::error::Result;
use crate::study::toolkit::host_device;
use crate::study::{Chapter, Finding, Setting};
use crate::summary::Row;

/// Examples that share a world and its networks.
struct Family {
    /// Its key in the results.
    name: &'static str,
    units: u64,
    run: fn(&Setting<'_>) -> Result<Section>,
}

const FAMILIES: &[Family] = &[
    Family { name: "signs", units: signs::UNITS, run: signs::run },
    Family { name: "shirt", units: shirt::UNITS, run: shirt::run },
    Family { name: "captions", units: captions::UNITS, run: captions::run },
    Family { name: "text", units: text::UNITS, run: text::run },
];

/// What a family came to.
struct Section {
    /// Every number.
    results: Value,
    rows: Vec<Row>,
    chapters: Vec<Chapter>,
}

/// Units of work of all experiments.
pub const UNITS: u64 = {
    let (mut units, mut i) = (0, 0);
    while i < FAMILIES.len() {
        units += FAMILIES[i].units;
        i += 1;
    }
    units
};

/// Runs all experiments.
///
/// # Errors
/// Those of the computation, and [`Error::Interrupted`](crate::error::Error::Interrupted).
pub fn run(setting: &Setting<'_>) -> Result<Finding> {
    // Small networks, and figures that do not depend on the device: on the host.
    let device = host_device();
    let setting = &Setting { device: &device, ..*setting };
    let mut results = serde_json::Map::new();
    let (mut rows, mut chapters) = (Vec::new(), Vec::new());
    for family in FAMILIES {
        let section = (family.run)(setting)?;
        results.insert(family.name.into(), section.results);
        rows.extend(section.rows);
        chapters.extend(section.chapters);
    }
    Ok(Finding { results: results.into(), rows, chapters })
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn row(label: impl Into<String>, value: String, note: String) -> Row {
    Row { label: label.into().into(), value, note }
}
