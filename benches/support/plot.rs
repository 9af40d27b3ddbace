//! Plots as SVG, drawn from figures alone: line charts and bar charts, each with a title and a line that says where its
//! figures come from. A card of its own, light or dark as the reader's page is, so the text can always be read.

use std::fmt::{self, Write as _};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 400.0;
/// The field in which the figures stand: left, top, right, bottom.
const FIELD: (f64, f64, f64, f64) = (70.0, 56.0, 560.0, 326.0);
/// Legend: its left edge and the distance of its lines.
const LEGEND_LEFT: f64 = 580.0;
const LEGEND_LINE: f64 = 24.0;

/// Colours that people of all kinds of sight can tell apart, and that stand out on white and on dark (after Okabe and Ito).
const COLOURS: [&str; 6] = ["#d55e00", "#0072b2", "#56a0d8", "#8c6bb1", "#009e73", "#c08a00"];
/// Dashes, so that lines can be told apart without colour.
const DASHES: [&str; 6] = ["", "7 3", "2 3", "9 3 2 3", "12 4", "4 4"];

/// How a value becomes a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    Linear,
    Log,
}

/// An axis.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    /// What it shows, with its unit.
    pub(crate) label: String,
    pub(crate) scale: Scale,
    /// The values that are written at it; empty for those that suit the data.
    pub(crate) ticks: Vec<f64>,
}

/// One line of a line chart.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) label: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Lines over two axes.
#[derive(Clone, Debug)]
pub(crate) struct LineChart {
    pub(crate) title: String,
    /// Where the figures come from: machine, date, command.
    pub(crate) source: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) series: Vec<Series>,
}

/// A bar for each label; none where there is no figure.
#[derive(Clone, Debug)]
pub(crate) struct BarChart {
    pub(crate) title: String,
    /// Where the figures come from: machine, date, command.
    pub(crate) source: String,
    /// What the bars show, with the unit.
    pub(crate) label: String,
    pub(crate) bars: Vec<(String, Option<f64>)>,
}

/// An axis with its range known.
struct Ruler {
    scale: Scale,
    from: f64,
    to: f64,
    ticks: Vec<f64>,
}

impl Ruler {
    fn new(axis: &Axis, values: impl Iterator<Item = f64>) -> Self {
        let is_shown = |value: &f64| value.is_finite() && (axis.scale == Scale::Linear || *value > 0.0);
        let values: Vec<f64> = values.chain(axis.ticks.iter().copied()).filter(is_shown).collect();
        let least = values.iter().copied().reduce(f64::min).unwrap_or(1.0);
        let most = values.iter().copied().reduce(f64::max).unwrap_or(1.0);
        let (from, to, fitting) = match axis.scale {
            Scale::Linear => linear(most),
            Scale::Log => decades(least, most),
        };
        if axis.ticks.is_empty() {
            return Self { scale: axis.scale, from, to, ticks: fitting };
        }
        Self { scale: axis.scale, from: least, to: most, ticks: axis.ticks.clone() }
    }

    /// Where a value stands between the axis' ends, 0 to 1.
    fn part(&self, value: f64) -> f64 {
        let on_scale = |value: f64| match self.scale {
            Scale::Linear => value,
            Scale::Log => value.max(f64::MIN_POSITIVE).log10(),
        };
        let (from, to) = (on_scale(self.from), on_scale(self.to));
        if to > from { ((on_scale(value) - from) / (to - from)).clamp(0.0, 1.0) } else { 0.5 }
    }
}

/// From zero, in steps of 1, 2 or 5 times a power of ten, about five of them.
fn linear(most: f64) -> (f64, f64, Vec<f64>) {
    let most = if most > 0.0 { most } else { 1.0 };
    let power = 10_f64.powf((most / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|of| of * power).find(|step| step * 5.0 >= most * 0.999);
    let step = step.unwrap_or(power);
    let steps = (most / step * 0.999).ceil().max(1.0);
    (0.0, step * steps, (0..=steps as u32).map(|at| f64::from(at) * step).collect())
}

/// Whole powers of ten around the values.
fn decades(least: f64, most: f64) -> (f64, f64, Vec<f64>) {
    let (from, to) = (least.log10().floor() as i32, most.log10().ceil() as i32);
    let to = to.max(from + 1);
    (10_f64.powi(from), 10_f64.powi(to), (from..=to).map(|power| 10_f64.powi(power)).collect())
}

/// A figure as it is written at an axis: no more digits than it has.
fn written(value: f64) -> String {
    if value >= 1_000.0 {
        let whole = format!("{value:.0}");
        let (head, tail) = whole.split_at(whole.len() - 3);
        return if head.len() > 3 { whole } else { format!("{head},{tail}") };
    }
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The card, with title and source.
fn open(svg: &mut String, title: &str, source: &str) -> fmt::Result {
    let (title, source) = (escape(title), escape(source));
    writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{}">
<style>
text {{ font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; }}
.title {{ font-size: 16px; font-weight: 600; }}
.small {{ font-size: 11px; fill: #59636e; }}
.card {{ fill: #ffffff; stroke: #d1d9e0; }}
.grid {{ stroke: #d1d9e0; stroke-width: 1; }}
.line {{ fill: none; stroke-width: 2.2; }}
@media (prefers-color-scheme: dark) {{
text {{ fill: #e6edf3; }}
.small {{ fill: #9da7b1; }}
.card {{ fill: #161b22; stroke: #3d444d; }}
.grid {{ stroke: #3d444d; }}
}}
</style>
<rect class="card" x="0.5" y="0.5" width="{}" height="{}" rx="8"/>
<text class="title" x="20" y="30">{title}</text>
<text class="small" x="20" y="{}">{source}</text>"#,
        title.replace('"', "&quot;"),
        WIDTH - 1.0,
        HEIGHT - 1.0,
        HEIGHT - 12.0,
    )
}

/// Horizontal lines of the grid, with their figures.
fn grid(svg: &mut String, label: &str, ruler: &Ruler, right: f64) -> fmt::Result {
    let (left, top, _, bottom) = FIELD;
    for tick in &ruler.ticks {
        let y = bottom - ruler.part(*tick) * (bottom - top);
        writeln!(svg, r#"<line class="grid" x1="{left}" y1="{y:.1}" x2="{right}" y2="{y:.1}"/>"#)?;
        writeln!(svg, r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#, left - 8.0, y + 4.0, written(*tick))?;
    }
    let middle = f64::midpoint(top, bottom);
    writeln!(
        svg,
        r#"<text transform="translate(18 {middle:.1}) rotate(-90)" text-anchor="middle">{}</text>"#,
        escape(label)
    )
}

/// A mark at a point, of a shape of its own.
fn mark(svg: &mut String, at: usize, (x, y): (f64, f64)) -> fmt::Result {
    let colour = COLOURS[at % COLOURS.len()];
    match at % 3 {
        0 => writeln!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="4" fill="{colour}"/>"#),
        1 => writeln!(svg, r#"<rect x="{:.1}" y="{:.1}" width="7" height="7" fill="{colour}"/>"#, x - 3.5, y - 3.5),
        _ => writeln!(svg, r#"<path d="M{x:.1} {:.1} l4.5 8 h-9 z" fill="{colour}"/>"#, y - 5.0),
    }
}

impl LineChart {
    /// The chart as a file's text.
    ///
    /// # Errors
    /// None: a string takes what is written.
    pub(crate) fn svg(&self) -> Result<String, fmt::Error> {
        let (left, top, right, bottom) = FIELD;
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x = Ruler::new(&self.x, points().map(|point| point.0));
        let y = Ruler::new(&self.y, points().map(|point| point.1));
        let mut svg = String::new();
        open(&mut svg, &self.title, &self.source)?;
        grid(&mut svg, &self.y.label, &y, right)?;
        for tick in &x.ticks {
            let at = left + x.part(*tick) * (right - left);
            writeln!(svg, r#"<line class="grid" x1="{at:.1}" y1="{bottom}" x2="{at:.1}" y2="{:.1}"/>"#, bottom + 5.0)?;
            let below = bottom + 20.0;
            writeln!(svg, r#"<text x="{at:.1}" y="{below:.1}" text-anchor="middle">{}</text>"#, written(*tick))?;
        }
        let (middle, below) = (f64::midpoint(left, right), bottom + 40.0);
        writeln!(svg, r#"<text x="{middle:.1}" y="{below:.1}" text-anchor="middle">{}</text>"#, escape(&self.x.label))?;
        for (at, series) in self.series.iter().enumerate() {
            let place = |point: &(f64, f64)| {
                (left + x.part(point.0) * (right - left), bottom - y.part(point.1) * (bottom - top))
            };
            let places: Vec<(f64, f64)> = series.points.iter().map(place).collect();
            line(&mut svg, at, &places)?;
            let legend = top + 12.0 + at as f64 * LEGEND_LINE;
            line(&mut svg, at, &[(LEGEND_LEFT, legend), (LEGEND_LEFT + 28.0, legend)])?;
            let (from, base) = (LEGEND_LEFT + 38.0, legend + 4.0);
            writeln!(svg, r#"<text x="{from:.1}" y="{base:.1}">{}</text>"#, escape(&series.label))?;
        }
        svg.push_str("</svg>\n");
        Ok(svg)
    }
}

fn line(svg: &mut String, at: usize, places: &[(f64, f64)]) -> fmt::Result {
    let (colour, dash) = (COLOURS[at % COLOURS.len()], DASHES[at % DASHES.len()]);
    let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let path = path.join(" ");
    writeln!(svg, r#"<polyline class="line" stroke="{colour}" stroke-dasharray="{dash}" points="{path}"/>"#)?;
    places.iter().try_for_each(|place| mark(svg, at, *place))
}

/// Bars reach over the legend's place too, since their labels stand below them.
const BARS_RIGHT: f64 = WIDTH - 20.0;

impl BarChart {
    /// The chart as a file's text.
    ///
    /// # Errors
    /// None: a string takes what is written.
    pub(crate) fn svg(&self) -> Result<String, fmt::Error> {
        let (left, top, _, bottom) = FIELD;
        let axis = Axis { label: self.label.clone(), scale: Scale::Linear, ticks: Vec::new() };
        let ruler = Ruler::new(&axis, self.bars.iter().filter_map(|bar| bar.1));
        let mut svg = String::new();
        open(&mut svg, &self.title, &self.source)?;
        grid(&mut svg, &self.label, &ruler, BARS_RIGHT)?;
        let place = (BARS_RIGHT - left) / self.bars.len().max(1) as f64;
        for (at, (label, value)) in self.bars.iter().enumerate() {
            let middle = left + (at as f64 + 0.5) * place;
            let (height, text) = value.map_or_else(
                || (0.0, "no figure".to_owned()),
                |value| (ruler.part(value) * (bottom - top), written((value * 1e3).round() / 1e3)),
            );
            let (x, y, width) = (middle - place * 0.3, bottom - height, place * 0.6);
            let colour = COLOURS[at % COLOURS.len()];
            writeln!(svg, r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{colour}"/>"#)?;
            writeln!(svg, r#"<text x="{middle:.1}" y="{:.1}" text-anchor="middle">{text}</text>"#, y - 6.0)?;
            let below = bottom + 20.0;
            writeln!(
                svg,
                r#"<text class="small" x="{middle:.1}" y="{below:.1}" text-anchor="middle">{}</text>"#,
                escape(label)
            )?;
        }
        svg.push_str("</svg>\n");
        Ok(svg)
    }
}
