//! `report.html`: what a run came to, as one page without references to anything outside it.
//!
//! The page is also well-formed XML, holds no script, follows the reader's light or dark setting and fits narrow screens.

pub mod bars;
pub mod image;
pub mod plot;
pub mod surface;

use std::fmt::Write;

use crate::data::Images;
use crate::metrics::Metrics;
use crate::recipe::Recipe;
use crate::summary::{self, Ending, Facts};
use plot::{Line, Plot, significant};

const STYLE: &str = include_str!("report/style.css");
/// Sample predictions shown.
const SAMPLES: usize = 24;
/// Of these at most so many mistakes.
const MISTAKES: usize = 16;
/// So many eigenvalues have their own entry in the legend.
const NAMED_EIGENVALUES: usize = 6;

/// What the model makes of the test set.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions {
    /// The class predicted for each test example.
    pub classes: Vec<u8>,
    /// The probability that the model gives it, 0 to 1.
    pub confidences: Vec<f64>,
}

/// All that a report shows.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// Name of the run folder.
    pub name: &'a str,
    /// The command that continues the run.
    pub resume: &'a str,
    /// The recipe as run.
    pub recipe: &'a Recipe,
    /// Facts beyond recipe and metrics.
    pub facts: &'a Facts,
    /// Everything recorded.
    pub metrics: &'a Metrics,
    /// How the run ended.
    pub ending: &'a Ending,
    /// The test set.
    pub test: &'a Images,
    /// The names of the classes.
    pub classes: &'a [String],
    /// What the model at the last checkpoint makes of it.
    pub predictions: &'a Predictions,
}

impl Report<'_> {
    /// The page.
    pub fn html(&self) -> String {
        let mut body = self.results();
        body += "<section>\n<h2>Over the run</h2>\n<div class=\"plots\">\n";
        for plot in [self.loss(), self.accuracy(), self.gradient_norm(), self.eigenvalues()] {
            body += &plot.html();
        }
        body += "</div>\n</section>\n<div class=\"pair\">\n";
        body += &self.samples();
        body += &self.confusion();
        body += "</div>\n";
        body += &self.details();
        page(self.name, &summary::headline(self.recipe, self.facts), &body)
    }

    fn results(&self) -> String {
        format!(
            "<section>\n<h2>Result</h2>\n{}</section>\n",
            results(&summary::rows(self.facts, self.metrics, self.ending))
        )
    }

    fn loss(&self) -> Plot<'static> {
        let epochs = |value: fn(&crate::metrics::Epoch) -> f64| self.over_epochs(value);
        let steps = self.metrics.steps.iter().map(|step| (step.step as f64, step.loss)).collect();
        Plot {
            title: "Loss",
            x_axis: "step",
            x_range: (0.0, self.last_step()),
            y_axis: "mean cross-entropy, nats (log scale)",
            logarithmic: true,
            lines: vec![
                line("batch of each step", "train fine", 0.5, steps),
                line("training set", "train", 1.0, epochs(|epoch| epoch.train_loss)),
                line("test set", "test", 1.0, epochs(|epoch| epoch.test_loss)),
            ],
        }
    }

    fn accuracy(&self) -> Plot<'static> {
        let robust = self.metrics.robust.iter().map(|at| (at.step as f64, 100.0 * at.robust_accuracy)).collect();
        let mut plot = Plot {
            title: "Accuracy",
            x_axis: "step",
            x_range: (0.0, self.last_step()),
            y_axis: "classified correctly, %",
            logarithmic: false,
            lines: vec![
                line("training set", "train", 1.0, self.over_epochs(|epoch| 100.0 * epoch.train_accuracy)),
                line("test set", "test", 1.0, self.over_epochs(|epoch| 100.0 * epoch.test_accuracy)),
            ],
        };
        if !self.metrics.robust.is_empty() {
            plot.lines.push(line("under attack", "curve", 1.0, robust));
        }
        plot
    }

    fn gradient_norm(&self) -> Plot<'static> {
        let norms = self.metrics.steps.iter().map(|step| (step.step as f64, step.grad_norm)).collect();
        Plot {
            title: "Gradient norm",
            x_axis: "step",
            x_range: (0.0, self.last_step()),
            y_axis: "L2 norm, nats per unit of weight (log scale)",
            logarithmic: true,
            lines: vec![line("gradient of each batch", "train fine", 1.0, norms)],
        }
    }

    fn eigenvalues(&self) -> Plot<'static> {
        let count = self.metrics.spectra.iter().map(|spectrum| spectrum.eigenvalues.len()).max().unwrap_or(0);
        let lines = (0..count).map(|index| {
            let value = |spectrum: &crate::metrics::Spectrum| {
                (spectrum.step as f64, spectrum.eigenvalues.get(index).copied().unwrap_or(f64::NAN))
            };
            let name = match index {
                0 => "largest (sharpness)".into(),
                _ if index < NAMED_EIGENVALUES => format!("no. {}", index + 1),
                _ => String::new(),
            };
            let opacity = 1.0 - 0.75 * index as f64 / count as f64;
            line(&name, "curve", opacity, self.metrics.spectra.iter().map(value).collect())
        });
        Plot {
            title: "Top eigenvalues of the Hessian",
            x_axis: "step",
            x_range: (0.0, self.last_step()),
            y_axis: "curvature, nats per squared unit of weight",
            logarithmic: false,
            lines: lines.collect(),
        }
    }

    fn over_epochs(&self, value: fn(&crate::metrics::Epoch) -> f64) -> Vec<(f64, f64)> {
        self.metrics.epochs.iter().map(|epoch| (epoch.step as f64, value(epoch))).collect()
    }

    fn last_step(&self) -> f64 {
        self.metrics.steps.last().map_or(1.0, |step| step.step as f64)
    }

    fn samples(&self) -> String {
        let right = |&index: &usize| self.predictions.classes[index] == self.test.labels[index];
        let (good, mut shown): (Vec<usize>, Vec<usize>) = (0..self.test.len()).partition(right);
        let wrong = shown.len();
        shown.truncate(MISTAKES);
        shown.extend(good.into_iter().take(SAMPLES - shown.len()));
        let note = match wrong {
            0 => "All of the test set is right.".into(),
            _ if wrong > MISTAKES => format!(
                "The first {MISTAKES} of {} mistakes on the test set, then correct ones.",
                summary::grouped(wrong)
            ),
            1 => "The one mistake on the test set, then correct ones.".into(),
            _ => format!("The {wrong} mistakes on the test set, then correct ones."),
        };
        let mut html = format!(
            "<section>\n<h2>Sample predictions</h2>\n<p>{note} Under each image the class read and its probability.</p>\n<ul class=\"samples\">\n"
        );
        for index in shown {
            let (label, class) = (self.test.labels[index], self.predictions.classes[index]);
            let [is, read] = [label, class].map(|class| escape(&self.classes[usize::from(class)]));
            let percent = 100.0 * self.predictions.confidences[index];
            let _ = writeln!(
                html,
                "<li class=\"{}\"><img alt=\"a {is}\" src=\"{}\"/><span>{read} <small>{percent:.0} %</small></span>{}</li>",
                if label == class { "right" } else { "wrong" },
                image::png_address(self.test.image(index), self.test.width, self.test.ink),
                if label == class { String::new() } else { format!("<em>is {is}</em>") }
            );
        }
        html += "</ul>\n</section>\n";
        html
    }

    fn confusion(&self) -> String {
        let classes = self.classes.len();
        let mut counts = vec![vec![0usize; classes]; classes];
        for (label, class) in self.test.labels.iter().zip(&self.predictions.classes) {
            counts[usize::from(*label)][usize::from(*class)] += 1;
        }
        let mut html = String::from(
            "<section>\n<h2>Confusion</h2>\n<p>Test examples by true class (rows) and class read (columns).</p>\n\
             <table class=\"confusion\">\n<thead><tr><th scope=\"col\">is \\ read</th>",
        );
        for class in self.classes {
            let _ = write!(html, "<th scope=\"col\">{}</th>", escape(class));
        }
        html += "</tr></thead>\n<tbody>\n";
        for (label, row) in counts.iter().enumerate() {
            let _ = write!(html, "<tr><th scope=\"row\">{}</th>", escape(&self.classes[label]));
            let total = row.iter().sum::<usize>().max(1) as f64;
            for (class, &count) in row.iter().enumerate() {
                let part = count as f64 / total;
                let _ = match (count, label == class) {
                    (0, _) => write!(html, "<td class=\"none\">·</td>"),
                    (_, true) => {
                        write!(html, "<td class=\"right\" style=\"--part:{:.0}%\">{count}</td>", 10.0 + 35.0 * part)
                    }
                    (_, false) => {
                        write!(html, "<td class=\"wrong\" style=\"--part:{:.0}%\">{count}</td>", 25.0 + 60.0 * part)
                    }
                };
            }
            html += "</tr>\n";
        }
        html += "</tbody>\n</table>\n</section>\n";
        html
    }

    fn details(&self) -> String {
        let mut html = format!(
            "<section>\n<h2>More</h2>\n<p>Continue this run: <code>{}</code></p>\n<details>\n<summary>Every epoch</summary>\n\
             <div class=\"scroll\"><table>\n<thead><tr><th scope=\"col\">epoch</th><th scope=\"col\">step</th>\
             <th scope=\"col\">training loss, nats</th><th scope=\"col\">test loss, nats</th><th scope=\"col\">training accuracy, %</th>\
             <th scope=\"col\">test accuracy, %</th><th scope=\"col\">time, s</th></tr></thead>\n<tbody>\n",
            escape(self.resume)
        );
        for epoch in &self.metrics.epochs {
            let _ = writeln!(
                html,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.2}</td><td>{:.2}</td><td>{:.1}</td></tr>",
                epoch.epoch,
                epoch.step,
                significant(epoch.train_loss),
                significant(epoch.test_loss),
                100.0 * epoch.train_accuracy,
                100.0 * epoch.test_accuracy,
                epoch.seconds
            );
        }
        html += "</tbody>\n</table></div>\n</details>\n<details>\n<summary>Every measurement of the Hessian</summary>\n\
                 <div class=\"scroll\"><table>\n<thead><tr><th scope=\"col\">epoch</th><th scope=\"col\">products H·v</th>\
                 <th scope=\"col\">eigenvalue ± error bound, from the largest down</th></tr></thead>\n<tbody>\n";
        for spectrum in &self.metrics.spectra {
            let values = spectrum.eigenvalues.iter().zip(&spectrum.residuals);
            let values: Vec<_> =
                values.map(|(value, error)| format!("{} ± {error:.0e}", significant(*value))).collect();
            let _ = writeln!(
                html,
                "<tr><td>{}</td><td>{}</td><td>{}</td></tr>",
                spectrum.epoch,
                spectrum.products,
                values.join(", ")
            );
        }
        let _ = write!(
            html,
            "</tbody>\n</table></div>\n<p>By the Lanczos method over exact Hessian-vector products of the mean loss of the first {} \
             training examples.</p>\n</details>\n<details>\n<summary>The recipe</summary>\n<pre>{}</pre>\n</details>\n</section>\n",
            summary::grouped(self.recipe.spectrum.examples.min(self.facts.train_examples)),
            escape(&self.recipe.to_toml())
        );
        html
    }
}

/// A page without references to anything outside it, its title and headline as plain text, its body as HTML.
pub fn page(title: &str, headline: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"color-scheme\" content=\"light dark\"/>\n<title>{0}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <main>\n<header>\n<h1>{0}</h1>\n<p>{1}</p>\n</header>\n{body}</main>\n</body>\n</html>\n",
        escape(title),
        escape(headline)
    )
}

/// Rows of a final table as a table with a note at each figure.
pub fn results(rows: &[summary::Row]) -> String {
    let mut html = String::from("<table class=\"results\">\n<tbody>\n");
    for row in rows {
        let _ = writeln!(
            html,
            "<tr><th scope=\"row\">{}</th><td class=\"figure\">{}</td><td>{}</td></tr>",
            escape(&row.label),
            escape(&row.value),
            escape(&row.note)
        );
    }
    html += "</tbody>\n</table>\n";
    html
}

/// A table that scrolls where it is too wide; the first column names the rows.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut html = String::from("<div class=\"scroll\"><table>\n<thead><tr>");
    for name in head {
        let _ = write!(html, "<th scope=\"col\">{}</th>", escape(name));
    }
    html += "</tr></thead>\n<tbody>\n";
    for row in rows {
        html += "<tr>";
        for (index, cell) in row.iter().enumerate() {
            let _ = match index {
                0 => write!(html, "<th scope=\"row\">{}</th>", escape(cell)),
                _ => write!(html, "<td>{}</td>", escape(cell)),
            };
        }
        html += "</tr>\n";
    }
    html += "</tbody>\n</table></div>\n";
    html
}

fn line(name: &str, class: &str, opacity: f64, points: Vec<(f64, f64)>) -> Line {
    Line { opacity, ..Line::new(name, class, points) }
}

/// `text` with the characters that mean something in HTML replaced.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Checks that a page is well-formed and refers to nothing outside it.
#[cfg(test)]
pub(crate) fn check(page: &str) {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..roxmltree::ParsingOptions::default() };
    let tree = roxmltree::Document::parse_with_options(page, options).expect("well-formed");
    for node in tree.descendants() {
        assert!(!matches!(node.tag_name().name(), "script" | "link" | "iframe" | "object" | "base"), "{node:?}");
        for attribute in node.attributes() {
            if matches!(attribute.name(), "src" | "href" | "xlink:href" | "srcset" | "action" | "poster") {
                assert!(attribute.value().starts_with("data:image/png;base64,"), "{attribute:?}");
            }
        }
    }
    for outside in ["http:", "https:", "url(", "@import", "//"] {
        let text: String = page.split("base64,").map(|part| part.split_once('"').map_or(part, |rest| rest.1)).collect();
        assert!(!text.contains(outside), "{outside}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Dataset;
    use crate::metrics::{Epoch, Spectrum, Step};
    use crate::recipe::DataRecipe;

    /// A page of a run that looks like a real one.
    fn page(name: &str, epochs: u64) -> String {
        let data = Dataset::load(&DataRecipe::default()).unwrap();
        let mut metrics = Metrics::default();
        for epoch in 0..=epochs {
            let done = epoch as f64;
            if epoch > 0 {
                for step in 23 * (epoch - 1) + 1..=23 * epoch {
                    let wave = 1.0 + 0.5 * (step as f64 * 1.7).sin();
                    let loss = if step == 30 { f64::NAN } else { 2.3 * wave * (-0.01 * step as f64).exp() };
                    metrics.steps.push(Step { step, epoch, loss, grad_norm: wave * 2.0, lr: 0.1, skipped: None });
                }
                metrics.epochs.push(Epoch {
                    epoch,
                    step: 23 * epoch,
                    train_loss: 2.0 * (-0.23 * done).exp(),
                    train_accuracy: 1.0 - 0.5 * (-0.3 * done).exp(),
                    test_loss: 0.08 + 2.0 * (-0.23 * done).exp(),
                    test_accuracy: 0.985 - 0.5 * (-0.3 * done).exp(),
                    seconds: 0.2 * done,
                    ..Epoch::default()
                });
            }
            if epoch.is_multiple_of(4) {
                let eigenvalues =
                    (0..5).map(|index| 30.0 * (1.0 + done) / (done * done + 9.0) / (1.0 + f64::from(index)));
                metrics.spectra.push(Spectrum {
                    epoch,
                    step: 23 * epoch,
                    examples: 256,
                    products: 20,
                    eigenvalues: eigenvalues.collect(),
                    residuals: vec![1e-5; 5],
                });
            }
        }
        let mut classes = data.test.labels.clone();
        classes.iter_mut().step_by(60).for_each(|class| *class = (*class + 3) % 10);
        let predictions = Predictions { confidences: vec![0.987; classes.len()], classes };
        let facts = Facts {
            parameters: 14_026,
            device: "flex".into(),
            train_examples: data.train.len(),
            test_examples: data.test.len(),
            tasks: vec!["class".into()],
        };
        Report {
            name,
            resume: "lab train --resume runs/x --epochs 40",
            recipe: &Recipe::default(),
            facts: &facts,
            metrics: &metrics,
            ending: &Ending::Finished,
            test: &data.test,
            classes: &data.classes,
            predictions: &predictions,
        }
        .html()
    }

    #[test]
    fn the_page_is_well_formed_and_needs_nothing_else() {
        let page = page("run <1> & \"2\"", 20);
        check(&page);
        assert!(page.contains("<h1>run &lt;1&gt; &amp; &quot;2&quot;</h1>"));
        for part in
            ["Loss", "Accuracy", "Gradient norm", "Top eigenvalues of the Hessian", "Sample predictions", "Confusion"]
        {
            assert!(page.contains(&format!(">{part}</h")), "{part}");
        }
        assert_eq!(page.matches("<img ").count(), SAMPLES);
    }

    #[test]
    fn a_run_that_ended_at_once_still_gives_a_page() {
        check(&page("empty", 0));
    }
}
