//! Horizontal bars with their values, as inline SVG.

use std::fmt::Write;

use super::escape;
use super::plot::Axis;

const WIDTH: f64 = 480.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 414.0;
const TOP: f64 = 8.0;
/// From one bar to the next.
const PITCH: f64 = 26.0;
const THICKNESS: f64 = 16.0;

/// Bars from a common zero.
#[derive(Clone, Debug)]
pub struct Bars<'a> {
    /// What they show.
    pub title: &'a str,
    /// Name and unit of the axis.
    pub axis: &'a str,
    /// The axis reaches at least to here.
    pub end: f64,
    /// From the top down.
    pub bars: Vec<Bar>,
}

/// One bar.
#[derive(Clone, Debug)]
pub struct Bar {
    /// Its name, to its left.
    pub name: String,
    /// Its length, zero or more; nothing is drawn where it is not finite.
    pub value: f64,
    /// The value as written behind it.
    pub label: String,
    /// The class of the style sheet that colours it.
    pub class: &'static str,
}

impl Bars<'_> {
    /// The bars as a `figure` element.
    pub fn html(&self) -> String {
        let end = self.bars.iter().map(|bar| bar.value).filter(|value| value.is_finite()).fold(self.end, f64::max);
        let axis = Axis::linear((0.0, end), LEFT, RIGHT, 5, false);
        let bottom = TOP + PITCH * self.bars.len() as f64;
        let mut svg = format!(
            "<figure class=\"plot\">\n<figcaption><h3>{}</h3></figcaption>\n<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" \
             aria-label=\"{0}: {}\">\n<g class=\"grid\">",
            escape(self.title),
            bottom + 42.0,
            escape(self.axis)
        );
        for (value, _) in &axis.ticks {
            let _ = write!(svg, "<path d=\"M{:.1} {TOP}V{bottom}\"/>", axis.place(*value));
        }
        svg += "</g>\n<g class=\"ticks\">";
        for (value, label) in &axis.ticks {
            let _ = write!(svg, "<text x=\"{:.1}\" y=\"{}\">{label}</text>", axis.place(*value), bottom + 17.0);
        }
        let _ = write!(
            svg,
            "</g>\n<text class=\"name end\" x=\"{RIGHT}\" y=\"{}\">{}</text>\n",
            bottom + 36.0,
            escape(self.axis)
        );
        for (index, bar) in self.bars.iter().enumerate() {
            let y = TOP + PITCH * index as f64 + (PITCH - THICKNESS) / 2.0;
            let length = if bar.value.is_finite() { axis.place(bar.value) - LEFT } else { 0.0 };
            let _ = writeln!(
                svg,
                "<g class=\"{0}\"><text class=\"end\" x=\"{1}\" y=\"{2:.1}\">{3}</text><rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{length:.1}\" \
                 height=\"{THICKNESS}\"/><text class=\"name\" x=\"{4:.1}\" y=\"{2:.1}\">{5}</text></g>",
                bar.class,
                LEFT - 7.0,
                y + THICKNESS - 4.0,
                escape(&bar.name),
                LEFT + length + 6.0,
                escape(&bar.label)
            );
        }
        svg += "</svg>\n</figure>\n";
        svg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_value() {
        let bar = |value: f64| Bar { name: "a & b".into(), value, label: "x".into(), class: "s1" };
        let bars = Bars { title: "t", axis: "share, %", end: 100.0, bars: vec![bar(100.0), bar(25.0), bar(f64::NAN)] };
        let html = bars.html();
        let widths: Vec<&str> = html.split("width=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(widths, ["264.0", "66.0", "0.0"]);
        assert!(html.contains("a &amp; b"));
    }
}
