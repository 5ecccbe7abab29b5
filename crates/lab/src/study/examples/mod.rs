//! The study of examples: what attacks make of pictures.

mod captions;

use serde::Serialize;

use crate::error::Result;
use crate::study::{Chapter, Finding, Setting};

/// Units of work of all experiments.
pub const UNITS: u64 = captions::UNITS;

/// Every number of the study.
#[derive(Clone, Debug, Serialize)]
struct Results {
    captions: captions::Captions,
}

/// Runs all experiments.
///
/// # Errors
/// Those of the computation, and [`Error::Interrupted`](crate::error::Error::Interrupted).
pub fn run(setting: &Setting<'_>) -> Result<Finding> {
    let found = Results { captions: setting.progress.experiment("captions", || captions::run(setting))? };
    Ok(Finding {
        results: serde_json::to_value(&found).expect("plain data"),
        rows: found.captions.rows(),
        chapters: vec![Chapter {
            question: "Can a picture be made to be described as something else?",
            answer: found.captions.answer(),
            parts: vec![found.captions.part()],
        }],
    })
}
