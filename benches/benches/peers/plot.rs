//! Pictures of how cost grows: both axes logarithmic, one line a path, as an SVG that any browser shows.

use std::fmt::Write as _;

/// One line of a picture.
pub(crate) struct Series {
    pub(crate) name: &'static str,
    pub(crate) values: Vec<f64>,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 460.0;
/// Around the plot; the names stand to its right.
const LEFT: f64 = 60.0;
const RIGHT: f64 = 270.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 50.0;
/// Told apart by people who see colours differently, too (Okabe and Ito).
const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#808080"];

/// The picture of some lines over sizes.
pub(crate) fn draw(what: &str, unit: &str, sizes: &[usize], series: &[Series]) -> String {
    let log = |value: f64| value.max(0.1).log10();
    let all = series.iter().flat_map(|line| line.values.iter().copied());
    let (low, high) =
        all.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(log(value)), high.max(log(value))));
    let (low, high) = (low.floor(), high.ceil().max(low.floor() + 1.0));
    let (first, last) = (log(sizes[0] as f64), log(sizes[sizes.len() - 1] as f64));
    let x = |size: usize| LEFT + (log(size as f64) - first) / (last - first) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| TOP + (high - log(value)) / (high - low) * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\" fill=\"#222\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    // Writing to a string cannot fail.
    for size in sizes {
        let (at, bottom) = (x(*size), HEIGHT - BOTTOM);
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\" stroke=\"#ddd\"/>"
        );
        let _ =
            writeln!(svg, "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{size}</text>", bottom + 18.0);
    }
    let mut power = low;
    while power <= high {
        let (at, right) = (y(10_f64.powf(power)), WIDTH - RIGHT);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>"
        );
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            at + 4.0,
            10_f64.powf(power)
        );
        power += 1.0;
    }
    for (at, line) in series.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let points =
            sizes.iter().zip(&line.values).map(|(size, value)| format!("{:.1},{:.1}", x(*size), y(*value)));
        let points = Vec::from_iter(points).join(" ");
        let _ = writeln!(
            svg,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
        );
        let (left, top) = (WIDTH - RIGHT + 16.0, TOP + 14.0 + 20.0 * at as f64);
        let _ = writeln!(svg, "<text x=\"{left}\" y=\"{top}\" fill=\"{colour}\">{}</text>", line.name);
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{what}</text>",
        (WIDTH - RIGHT + LEFT) / 2.0,
        HEIGHT - 12.0
    );
    let _ = writeln!(
        svg,
        "<text x=\"14\" y=\"{}\" transform=\"rotate(-90 14 {0})\" text-anchor=\"middle\">{unit}</text>",
        HEIGHT / 2.0
    );
    svg + "</svg>\n"
}
