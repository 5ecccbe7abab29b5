//! The table as markdown.

use std::fmt::Write;

use super::{Case, Outcome};

/// A case and its outcome.
pub struct Row<'a> {
    /// What was run.
    pub case: &'a Case,
    /// What it gave.
    pub outcome: &'a Outcome,
}

const HEAD: &str = "\
# Coverage of burn-nn

Every module, activation and loss of burn-nn 0.22.1, and the tensor functions that models call, recorded as a program and
checked in `f64`. This page is written by a test of the `crucible-tests` package, which also fails if it is out of date.

- *Operations*: of value and gradient, then of the pass that gives `H·v` too, the module's input being a parameter as well.
- *Gradient*: `=` where it equals Burn's own `backward` to 10⁻¹⁰ (relative to the leaf's largest entry), lacks the same
  leaves and agrees with differences of the value; `differences` where only the last applies, because the layer draws
  random numbers and Burn draws anew on every call.
- *H·v*: the error against fourth-order central differences of the gradient, rounded up to a power of ten. It is also
  checked that `⟨u, H·v⟩ = ⟨v, H·u⟩` to 10⁻⁹.

Where a note says that Burn rounds a divisor to `f32`, symmetry and differences of the value hold to 2·10⁻⁷; where it says
that Burn computes in `f32`, the gradient equals Burn's to 10⁻⁶, symmetry holds to 10⁻⁵ and differences to 10⁻⁴.

";

/// The whole page.
pub fn markdown(rows: &[Row<'_>]) -> String {
    let covered = rows.iter().filter(|row| matches!(row.outcome, Outcome::Covered(_))).count();
    let mut page = format!("{HEAD}{covered} of {} cases are covered.\n", rows.len());
    let mut group = "";
    for Row { case, outcome } in rows {
        if case.group != group {
            group = case.group;
            write!(page, "\n## {group}\n\n| module | operations | gradient | H·v | note |\n|---|---|---|---|---|\n")
                .expect("writing to a string");
        }
        let name = case.name.replace('|', "\\|");
        let gradient = if case.random { "differences" } else { "=" };
        let cells = match outcome {
            Outcome::Covered(measured) => {
                let (first, second) = measured.operations;
                format!("{first}, {second} | {gradient} | {} | {}", decade(measured.curvature), case.note)
            }
            Outcome::Mixed(mixed) => {
                let report = &mixed.report;
                format!("{}, – | {:.0e} | {:.0e} | {report}", report.low_operations, mixed.gradient, mixed.curvature)
            }
            Outcome::Uncovered { error } => format!("– | – | – | {}", remark(case.note, "not covered", error)),
            Outcome::NoGradientInBurn { message } => {
                format!("– | – | – | {}", remark(case.note, "Burn has no gradient", message))
            }
            Outcome::Broken { error } => format!("– | – | – | {}", remark(case.note, "broken", error)),
        };
        writeln!(page, "| {name} | {cells} |").expect("writing to a string");
    }
    page
}

/// The page without what differs from machine to machine: the column of errors.
pub fn stable(page: &str) -> String {
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(" | ").collect();
        match cells.as_slice() {
            [name, count, gradient, _, note] => [*name, count, gradient, note].join(" | "),
            _ => line.to_string(),
        }
    };
    page.lines().map(|line| row(line.trim_end())).collect::<Vec<_>>().join("\n")
}

/// The smallest power of ten that is not below `error`, and at least 10⁻¹².
fn decade(error: f64) -> String {
    let exponent = error.max(1e-12).log10().ceil() as i32;
    format!("1e{exponent}")
}

fn remark(note: &str, what: &str, message: &str) -> String {
    let message = message.lines().next().unwrap_or_default().replace('|', "\\|");
    let note = if note.is_empty() { String::new() } else { format!("{note}; ") };
    format!("{note}{what}: {message}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_round_up_to_decades() {
        assert_eq!(decade(0.0), "1e-12");
        assert_eq!(decade(1.1e-9), "1e-8");
        assert_eq!(decade(9.9e-9), "1e-8");
        assert_eq!(decade(0.5), "1e0");
    }

    #[test]
    fn only_the_errors_are_left_out() {
        let page = "| Linear | 7 | = | 1e-9 | |\nplain";
        assert_eq!(stable(page), "| Linear | 7 | = | |\nplain");
        assert_eq!(stable(page), stable("| Linear | 7 | = | 1e-11 | |\nplain"));
        assert_ne!(stable(page), stable("| Linear | 8 | = | 1e-9 | |\nplain"));
        assert_ne!(stable(page), stable("| Linear | 7 | = | 1e-9 | note |\nplain"));
    }
}
