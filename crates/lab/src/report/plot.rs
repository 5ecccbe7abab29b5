//! Line plots as inline SVG, coloured by the page's style sheet so that they follow light and dark.

use std::fmt::Write;

use super::escape;

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 290.0;
const LEFT: f64 = 54.0;
const RIGHT: f64 = 466.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 248.0;
/// Lines of more points are thinned to their extremes in so many columns.
const COLUMNS: usize = 400;
/// Lines of more points are drawn without a mark at each.
const MARKS: usize = 60;

/// A plot of lines over a common horizontal axis.
#[derive(Clone, Debug)]
pub struct Plot<'a> {
    /// What the plot shows.
    pub title: &'a str,
    /// Name and unit of the horizontal axis.
    pub x_axis: &'a str,
    /// The horizontal axis reaches from here to there, or further where a line does.
    pub x_range: (f64, f64),
    /// Name and unit of the vertical axis.
    pub y_axis: &'a str,
    /// Whether the vertical axis is logarithmic; values of 0 and below are then left out.
    pub logarithmic: bool,
    /// The lines, later ones on top.
    pub lines: Vec<Line>,
}

/// A line of a plot.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its name in the legend; empty: not in the legend.
    pub name: String,
    /// Classes of the style sheet that colour it.
    pub class: String,
    /// Share of full strength, 0 to 1.
    pub opacity: f64,
    /// Horizontal and vertical values; a vertical value that is not finite interrupts the line.
    pub points: Vec<(f64, f64)>,
    /// Whether the points are joined; else there are only marks.
    pub joined: bool,
}

impl Line {
    /// A line at full strength.
    pub fn new(name: &str, class: &str, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), class: class.into(), opacity: 1.0, points, joined: true }
    }

    /// Marks at points that are not joined.
    pub fn marks(name: &str, class: &str, points: Vec<(f64, f64)>) -> Self {
        Self { joined: false, ..Self::new(name, class, points) }
    }

    /// Its entry in a legend, `""` where it has no name.
    pub(super) fn key(&self) -> String {
        if self.name.is_empty() {
            return String::new();
        }
        let sample = match self.joined {
            true => "<path d=\"M1 4H17\"/>",
            false => "<circle cx=\"9\" cy=\"4\" r=\"3\"/>",
        };
        format!(
            "<li><svg class=\"{} key\" viewBox=\"0 0 18 8\" aria-hidden=\"true\"><g opacity=\"{}\">{sample}</g></svg>{}</li>",
            self.class,
            self.opacity,
            escape(&self.name)
        )
    }
}

impl Plot<'_> {
    /// The plot as a `figure` element.
    pub fn html(&self) -> String {
        self.figure(false)
    }

    /// The same with a logarithmic horizontal axis; places of 0 and below are then left out.
    pub fn html_log_x(&self) -> String {
        self.figure(true)
    }

    fn figure(&self, log_x: bool) -> String {
        let mut html = format!("<figure class=\"plot\">\n<figcaption><h3>{}</h3>\n<ul>", escape(self.title));
        self.lines.iter().for_each(|line| html += &line.key());
        html += "</ul></figcaption>\n";
        html += &self.svg(log_x);
        html += "\n</figure>\n";
        html
    }

    fn svg(&self, log_x: bool) -> String {
        let fits = |value: f64, logarithmic: bool| value.is_finite() && (!logarithmic || value > 0.0);
        let shown = |point: &(f64, f64)| fits(point.0, log_x) && fits(point.1, self.logarithmic);
        let points = || self.lines.iter().flat_map(|line| &line.points).filter(|point| shown(point));
        let Some(y_range) = range(points().map(|point| point.1)) else {
            return "<p class=\"empty\">Nothing was measured.</p>".into();
        };
        let x_range = points().fold(self.x_range, |(low, high), point| (low.min(point.0), high.max(point.0)));
        let x = match log_x {
            true => Axis::logarithmic(x_range, LEFT, RIGHT),
            false => Axis::linear(x_range, LEFT, RIGHT, 6, false),
        };
        let y = if self.logarithmic {
            Axis::logarithmic(y_range, BOTTOM, TOP)
        } else {
            Axis::linear(y_range, BOTTOM, TOP, 6, true)
        };

        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}: {} over {}\">\n<g class=\"grid\">",
            escape(self.title),
            escape(self.y_axis),
            escape(self.x_axis)
        );
        for &(value, _) in &y.ticks {
            let _ = write!(svg, "<path d=\"M{LEFT} {0:.1}H{RIGHT}\"/>", y.place(value));
        }
        let _ = write!(svg, "</g>\n<path class=\"axis\" d=\"M{LEFT} {BOTTOM}H{RIGHT}\"/>\n<g class=\"ticks\">");
        for (value, label) in &y.ticks {
            let _ = write!(
                svg,
                "<text x=\"{}\" y=\"{:.1}\" class=\"end\">{label}</text>",
                LEFT - 7.0,
                y.place(*value) + 4.0
            );
        }
        for (value, label) in &x.ticks {
            let place = x.place(*value);
            let _ = write!(
                svg,
                "<path d=\"M{place:.1} {BOTTOM}v4\"/><text x=\"{place:.1}\" y=\"{}\">{label}</text>",
                BOTTOM + 17.0
            );
        }
        let _ = write!(
            svg,
            "</g>\n<text class=\"name\" x=\"4\" y=\"13\">{}</text><text class=\"name end\" x=\"{RIGHT}\" y=\"{}\">{}</text>\n",
            escape(self.y_axis),
            HEIGHT - 6.0,
            escape(self.x_axis)
        );
        for line in &self.lines {
            let places: Vec<Option<(f64, f64)>> =
                line.points.iter().map(|point| shown(point).then(|| (x.place(point.0), y.place(point.1)))).collect();
            let _ = write!(svg, "<g class=\"{}\" opacity=\"{}\">", line.class, line.opacity);
            if line.joined {
                let _ = write!(svg, "<path d=\"{}\"/>", path(&places));
            }
            if places.len() <= MARKS || !line.joined {
                for (place, (at, value)) in places.iter().zip(&line.points) {
                    if let Some((cx, cy)) = place {
                        let _ = write!(
                            svg,
                            "<circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"2.6\"><title>{}: {} at {} {}</title></circle>",
                            escape(&line.name),
                            number(*value),
                            escape(self.x_axis),
                            number(*at)
                        );
                    }
                }
            }
            svg += "</g>\n";
        }
        svg += "</svg>";
        svg
    }
}

/// A number with three significant digits, without zeros at the end.
pub fn number(value: f64) -> String {
    let text = significant(value);
    match text.split_once('e') {
        _ if !value.is_finite() => text,
        Some((digits, exponent)) => format!("{}e{exponent}", trim(digits)),
        None => trim(&text),
    }
}

/// A number with three significant digits.
pub fn significant(value: f64) -> String {
    if !value.is_finite() {
        return "not finite".into();
    }
    let size = value.abs();
    let text = if size != 0.0 && !(1e-3..1e6).contains(&size) {
        format!("{value:.2e}")
    } else {
        let decimals = if size == 0.0 { 0 } else { (2 - size.log10().floor() as i32).clamp(0, 5) as usize };
        format!("{value:.decimals$}")
    };
    text.replace('-', "−")
}

/// A number with so many decimals, without a sign where those are zero.
pub fn fixed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let zero = text.chars().all(|c| matches!(c, '-' | '0' | '.'));
    text.replace('-', if zero { "" } else { "−" })
}

fn trim(text: &str) -> String {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text.into() }
}

/// Values along a side of the plot, with their ticks.
pub(super) struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    logarithmic: bool,
    pub(super) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// Ticks at multiples of 1, 2 or 5 times a power of ten; `widen` moves the ends out to ticks.
    pub(super) fn linear((low, high): (f64, f64), from: f64, to: f64, wanted: usize, widen: bool) -> Self {
        let (mut low, mut high) = if low == high { (low - 0.5, high + 0.5) } else { (low, high) };
        let raw = (high - low) / wanted as f64;
        let power = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= raw * 0.999);
        let step = step.unwrap_or(10.0 * power);
        let (mut first, mut last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
        if widen {
            (first, last) = ((low / step + 1e-9).floor() as i64, (high / step - 1e-9).ceil() as i64);
            (low, high) = (first as f64 * step, last as f64 * step);
        }
        let ticks = (first..=last).map(|index| index as f64 * step).map(|value| (value, number(value))).collect();
        Self { low, high, from, to, logarithmic: false, ticks }
    }

    /// Ticks at powers of ten, and at 2 and 5 times those where there is room.
    fn logarithmic((low, high): (f64, f64), from: f64, to: f64) -> Self {
        let (low, high) = (low.log10(), high.log10());
        let factors: &[f64] = if high - low < 1.7 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let candidates: Vec<f64> = (low.floor() as i32 - 1..=high.ceil() as i32 + 1)
            .flat_map(|exponent| factors.iter().map(move |factor| factor * 10f64.powi(exponent)))
            .collect();
        let last_below = candidates.iter().rposition(|value| value.log10() <= low + 1e-9).unwrap_or(0);
        let first_above = candidates.iter().position(|value| value.log10() >= high - 1e-9 && value.log10() > low);
        let shown = &candidates[last_below..=first_above.unwrap_or(candidates.len() - 1)];
        let every = shown.len().div_ceil(8);
        // Short, for the room beside the axis is small.
        let label = |value: f64| if value >= 1e4 { format!("{value:e}") } else { number(value) };
        let ticks = shown.iter().step_by(every).map(|&value| (value, label(value))).collect();
        let (low, high) = (shown[0].log10(), shown[shown.len() - 1].log10());
        Self { low, high, from, to, logarithmic: true, ticks }
    }

    pub(super) fn place(&self, value: f64) -> f64 {
        let value = if self.logarithmic { value.log10() } else { value };
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }
}

fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |range, value| match range {
        None => Some((value, value)),
        Some((low, high)) => Some((f64::min(low, value), f64::max(high, value))),
    })
}

/// The line through the places that are there, thinned where there are many.
pub(super) fn path(places: &[Option<(f64, f64)>]) -> String {
    let mut text = String::new();
    let mut pen_down = false;
    let mut draw = |place: Option<(f64, f64)>| match place {
        Some((x, y)) => {
            let _ = write!(text, "{}{x:.1} {y:.1}", if pen_down { 'L' } else { 'M' });
            pen_down = true;
        }
        None => pen_down = false,
    };
    if places.len() <= 2 * COLUMNS {
        places.iter().for_each(|place| draw(*place));
    } else {
        for column in places.chunks(places.len().div_ceil(COLUMNS)) {
            let seen = || column.iter().enumerate().filter_map(|(index, place)| Some((index, (*place)?)));
            let low = seen().min_by(|a, b| a.1.1.total_cmp(&b.1.1));
            let high = seen().max_by(|a, b| a.1.1.total_cmp(&b.1.1));
            match (low, high) {
                (Some(low), Some(high)) if low.0 <= high.0 => [low, high].map(|end| draw(Some(end.1))),
                (Some(low), Some(high)) => [high, low].map(|end| draw(Some(end.1))),
                _ => [draw(None), ()],
            };
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|tick| tick.1.as_str()).collect()
    }

    #[test]
    fn numbers_have_three_digits() {
        let cases = [
            (0.0, "0"),
            (0.1 + 0.2, "0.3"),
            (12.345, "12.3"),
            (1234.6, "1235"),
            (0.001_234_5, "0.00123"),
            (-2.5, "−2.5"),
            (1e-4, "1e−4"),
            (1_234_567.0, "1.23e6"),
            (100.0, "100"),
            (f64::NAN, "not finite"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn decimals_are_fixed() {
        assert_eq!(fixed(-2.5067, 3), "−2.507");
        assert_eq!(fixed(-1e-9, 3), "0.000");
        assert_eq!(fixed(12.0, 0), "12");
    }

    #[test]
    fn linear_ticks_are_round_and_enclose() {
        let axis = Axis::linear((0.813, 0.998), 0.0, 100.0, 6, true);
        assert_eq!(labels(&axis), ["0.8", "0.85", "0.9", "0.95", "1"]);
        assert_eq!((axis.place(0.8), axis.place(1.0)), (0.0, 100.0));
        let axis = Axis::linear((1.0, 460.0), 0.0, 100.0, 6, false);
        assert_eq!(labels(&axis), ["100", "200", "300", "400"]);
        assert_eq!(
            labels(&Axis::linear((3.0, 3.0), 0.0, 1.0, 6, true)),
            ["2.4", "2.6", "2.8", "3", "3.2", "3.4", "3.6"]
        );
    }

    #[test]
    fn logarithmic_ticks_enclose() {
        assert_eq!(labels(&Axis::logarithmic((0.003, 2.3), 0.0, 1.0)), ["0.001", "0.01", "0.1", "1", "10"]);
        assert_eq!(labels(&Axis::logarithmic((0.3, 2.3), 0.0, 1.0)), ["0.2", "0.5", "1", "2", "5"]);
        assert_eq!(labels(&Axis::logarithmic((1.0, 1.0), 0.0, 1.0)), ["1", "2"]);
        assert_eq!(labels(&Axis::logarithmic((900.0, 90_000.0), 0.0, 1.0)), ["100", "1000", "1e4", "1e5"]);
        assert!(labels(&Axis::logarithmic((1e-30, 1e30), 0.0, 1.0)).len() <= 8);
    }

    #[test]
    fn long_lines_keep_their_extremes() {
        let mut places: Vec<_> = (0..100_000).map(|index| Some((f64::from(index), 50.0))).collect();
        places[77_777] = Some((77_777.0, 1.0));
        places[10] = None;
        let text = path(&places);
        assert!(text.contains("77777.0 1.0") && text.len() < 20_000);
    }

    #[test]
    fn gaps_interrupt_the_line() {
        assert_eq!(path(&[Some((0.0, 1.0)), None, Some((2.0, 1.0)), Some((3.0, 1.0))]), "M0.0 1.0M2.0 1.0L3.0 1.0");
    }

    #[test]
    fn marks_are_not_joined() {
        let lines = vec![Line::marks("a", "one", (2..90).map(|x| (f64::from(x), 1.0 + f64::from(x))).collect())];
        let plot = Plot { title: "t", x_axis: "x", x_range: (2.0, 9.0), y_axis: "y", logarithmic: true, lines };
        let html = plot.html();
        assert_eq!(html.matches("<circle ").count(), 88 + 1, "one in the legend");
        let first = format!("<circle cx=\"{LEFT:.1}\"");
        assert!(html.contains(&first), "the axis begins at 2: {html}");
    }

    #[test]
    fn a_logarithmic_horizontal_axis_has_powers_of_ten() {
        let lines = vec![Line::marks("a", "one", vec![(0.0, 1.0), (0.01, 1.0), (1.0, 2.0)])];
        let plot = Plot { title: "t", x_axis: "x", x_range: (0.01, 100.0), y_axis: "y", logarithmic: false, lines };
        let html = plot.html_log_x();
        assert_eq!(html.matches("<circle ").count(), 2 + 1, "zero has no place");
        let middle = format!("<circle cx=\"{:.1}\"", 0.5 * (LEFT + RIGHT));
        assert!(html.contains(&middle) && html.contains(">0.01</text>") && html.contains(">100</text>"), "{html}");
        assert_eq!(plot.html().matches("<circle ").count(), 3 + 1);
    }

    #[test]
    fn an_empty_plot_says_so() {
        let lines = vec![Line::new("a", "one", vec![(1.0, f64::NAN)])];
        let plot = Plot { title: "t", x_axis: "x", x_range: (0.0, 1.0), y_axis: "y", logarithmic: false, lines };
        assert!(plot.html().contains("Nothing was measured."));
    }
}
