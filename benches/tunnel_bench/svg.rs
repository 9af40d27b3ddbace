//! A bar chart of the speeds, as SVG.

use crate::row::Row;

const BARS: [(&str, &str, &str); 2] = [("tcp1_up_gbit_s", "up", "#2f6fb0"), ("tcp1_down_gbit_s", "down", "#d98032")];
const WIDTH: f64 = 760.0;
/// For the names at the left, and the figures at the right.
const NAMES_WIDTH: f64 = 250.0;
const FIGURES_WIDTH: f64 = 60.0;
const BAR_HEIGHT: f64 = 11.0;
const ROW_HEIGHT: f64 = 32.0;
const HEAD_HEIGHT: f64 = 44.0;

/// One TCP stream each way, a pair of bars a row. The lengths are logarithmic: the rows span three orders of magnitude.
pub(crate) fn speeds(rows: &[Row]) -> String {
    let values = || rows.iter().flat_map(|row| BARS.iter().filter_map(|(key, ..)| row.get(key)));
    let (least, most) = (values().fold(f64::MAX, f64::min) / 2.0, values().fold(0.0, f64::max));
    let room = WIDTH - NAMES_WIDTH - FIGURES_WIDTH;
    let length = |value: f64| (room * (value / least).ln() / (most / least).ln()).max(1.0);
    let height = HEAD_HEIGHT + ROW_HEIGHT * rows.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"14\">One TCP stream through the tunnel, Gbit/s (logarithmic)</text>\n"
    );
    for (at, (_, name, colour)) in BARS.iter().enumerate() {
        let x = NAMES_WIDTH + 60.0 * at as f64;
        svg += &format!("<text x=\"{x}\" y=\"38\" fill=\"{colour}\">■ {name}</text>\n");
    }
    for (at, row) in rows.iter().enumerate() {
        let y = HEAD_HEIGHT + ROW_HEIGHT * at as f64;
        let (name_x, name_y) = (NAMES_WIDTH - 8.0, y + 16.0);
        let name = format!("{} {}", row.system, row.path);
        svg += &format!("<text x=\"{name_x}\" y=\"{name_y}\" text-anchor=\"end\">{name}</text>\n");
        for (bar, (key, _, colour)) in BARS.iter().enumerate() {
            let y = y + 2.0 + (BAR_HEIGHT + 1.0) * bar as f64;
            let Some(value) = row.get(key) else { continue };
            let (long, text_y) = (length(value), y + BAR_HEIGHT - 1.0);
            let text_x = NAMES_WIDTH + long + 4.0;
            svg += &format!(
                "<rect x=\"{NAMES_WIDTH}\" y=\"{y}\" width=\"{long:.1}\" height=\"{BAR_HEIGHT}\" fill=\"{colour}\"/>\
                 <text x=\"{text_x:.1}\" y=\"{text_y}\" font-size=\"10\">{value:.2}</text>\n"
            );
        }
    }
    svg + "</svg>\n"
}
