//! Line charts as SVG, readable on a light and on a dark page.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 160.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Told apart also by those who see few colours.
const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f"];

/// How values become places on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// From nothing up.
    Linear,
    Logarithmic,
}

#[derive(Clone, Debug)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

#[derive(Clone, Debug)]
pub struct Chart {
    pub title: String,
    pub x_label: String,
    pub y_label: String,
    /// Where the horizontal axis, which is logarithmic, has a mark, and which.
    pub x_ticks: Vec<(f64, String)>,
    pub y_scale: Scale,
    pub series: Vec<Series>,
}

/// The values at both ends of an axis, and where they are drawn.
struct Axis {
    scale: Scale,
    values: (f64, f64),
    places: (f64, f64),
}

impl Axis {
    fn place(&self, value: f64) -> f64 {
        let on_scale = |value: f64| match self.scale {
            Scale::Linear => value,
            Scale::Logarithmic => value.max(f64::MIN_POSITIVE).log10(),
        };
        let (first, last) = (on_scale(self.values.0), on_scale(self.values.1));
        let share = if last > first { (on_scale(value) - first) / (last - first) } else { 0.5 };
        self.places.0 + share.clamp(0.0, 1.0) * (self.places.1 - self.places.0)
    }
}

impl Chart {
    /// `None` when there is nothing to draw.
    pub fn svg(&self) -> Option<String> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let highest = points().map(|(_, y)| *y).fold(0.0, f64::max);
        if highest <= 0.0 || self.x_ticks.is_empty() {
            return None;
        }
        let lowest = points().map(|(_, y)| *y).filter(|y| *y > 0.0).fold(highest, f64::min);
        let marks = marks(self.y_scale, lowest, highest);
        let ticks = || self.x_ticks.iter().map(|(x, _)| *x);
        let x = Axis {
            scale: Scale::Logarithmic,
            values: (ticks().fold(f64::MAX, f64::min), ticks().fold(0.0, f64::max)),
            places: (LEFT, WIDTH - RIGHT),
        };
        let y = Axis {
            scale: self.y_scale,
            values: (*marks.first()?, *marks.last()?),
            places: (HEIGHT - BOTTOM, TOP),
        };
        let mut svg = self.frame(&x, &y, &marks);
        for (number, series) in self.series.iter().enumerate() {
            let colour = COLOURS.get(number % COLOURS.len()).copied().unwrap_or_default();
            draw(&mut svg, (number, colour), series, &x, &y);
        }
        svg.push_str("</svg>\n");
        Some(svg)
    }

    /// Title, axes, marks and grid. Middle grey: seen on white and on black.
    fn frame(&self, x: &Axis, y: &Axis, marks: &[f64]) -> String {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\" fill=\"#808080\">\n\
             <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>\n",
            escaped(&self.title)
        );
        for value in marks {
            let place = y.place(*value);
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" y1=\"{place:.1}\" x2=\"{right}\" y2=\"{place:.1}\" \
                 stroke=\"#808080\" stroke-opacity=\"0.3\"/>\n\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 8.0,
                place + 4.0,
                number(*value)
            );
        }
        for (value, text) in &self.x_ticks {
            let place = x.place(*value);
            let _ = writeln!(
                svg,
                "<line x1=\"{place:.1}\" y1=\"{bottom}\" x2=\"{place:.1}\" y2=\"{:.1}\" \
                 stroke=\"#808080\"/>\n\
                 <text x=\"{place:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 5.0,
                bottom + 18.0,
                escaped(text)
            );
        }
        let middle = f64::midpoint(TOP, bottom);
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n\
             <text x=\"18\" y=\"{middle:.1}\" text-anchor=\"middle\" \
             transform=\"rotate(-90 18 {middle:.1})\">{}</text>",
            f64::midpoint(LEFT, right),
            HEIGHT - 10.0,
            escaped(&self.x_label),
            escaped(&self.y_label)
        );
        svg
    }
}

fn draw(svg: &mut String, (number, colour): (usize, &str), series: &Series, x: &Axis, y: &Axis) {
    let places: Vec<_> =
        series.points.iter().map(|(at, value)| (x.place(*at), y.place(*value))).collect();
    let line: Vec<_> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
        line.join(" ")
    );
    for (x, y) in places {
        let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
    }
    let row = TOP + 10.0 + 20.0 * number as f64;
    let left = WIDTH - RIGHT + 14.0;
    let _ = writeln!(
        svg,
        "<line x1=\"{left}\" y1=\"{row}\" x2=\"{:.1}\" y2=\"{row}\" stroke=\"{colour}\" \
         stroke-width=\"3\"/>\n<text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
        left + 20.0,
        left + 26.0,
        row + 4.0,
        escaped(&series.name)
    );
}

/// Values with a line across the chart; the first and last are its edges.
fn marks(scale: Scale, lowest: f64, highest: f64) -> Vec<f64> {
    match scale {
        Scale::Linear => {
            // A fifth of the height, rounded up to 1, 2, 2.5 or 5 of some unit.
            let rough = highest / 5.0;
            let unit = 10_f64.powf(rough.log10().floor());
            let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|step| step * unit);
            let step = steps.into_iter().find(|step| *step >= rough).unwrap_or(rough);
            (0..=5).map(|count| step * f64::from(count)).collect()
        }
        Scale::Logarithmic => {
            let mut value = 10_f64.powf(lowest.log10().floor());
            let mut marks = vec![value];
            while value < highest {
                value *= 10.0;
                marks.push(value);
            }
            marks
        }
    }
}

fn number(value: f64) -> String {
    // Marks are round; this takes away what floating point adds to them.
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    text.to_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(y_scale: Scale, points: &[(f64, f64)]) -> Chart {
        Chart {
            title: "A < B & C".to_owned(),
            x_label: "sessions".to_owned(),
            y_label: "s/GB".to_owned(),
            x_ticks: [1.0, 8.0, 64.0].map(|tick| (tick, number(tick))).into(),
            y_scale,
            series: vec![Series { name: "one".to_owned(), points: points.to_vec() }],
        }
    }

    #[test]
    fn points_are_drawn_where_their_values_are() {
        let svg = chart(Scale::Linear, &[(1.0, 0.0), (8.0, 2.5), (64.0, 5.0)]).svg().unwrap();
        // Both ends of both axes, and the middle of both.
        assert!(svg.contains("points=\"70.0,350.0 315.0,195.0 560.0,40.0\""), "{svg}");
        assert!(svg.contains("A &lt; B &amp; C"));
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn a_logarithmic_axis_spans_whole_decades() {
        assert_eq!(marks(Scale::Logarithmic, 30.0, 2_000.0), [10.0, 100.0, 1_000.0, 10_000.0]);
        assert!(chart(Scale::Logarithmic, &[(1.0, 30.0), (64.0, 2_000.0)]).svg().is_some());
    }

    #[test]
    fn a_linear_axis_has_round_marks() {
        assert_eq!(
            marks(Scale::Linear, 0.3, 0.95).iter().map(|mark| number(*mark)).collect::<Vec<_>>(),
            ["0", "0.2", "0.4", "0.6", "0.8", "1"]
        );
        assert_eq!(number(12_500.0), "12500");
    }

    #[test]
    fn nothing_makes_no_chart() {
        assert!(chart(Scale::Linear, &[]).svg().is_none());
        assert!(chart(Scale::Linear, &[(1.0, 0.0)]).svg().is_none());
    }
}
