//! Charts of lines, as SVG.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 50.0;

const COLOURS: [&str; 7] = [
    "#d62728", "#ff9896", "#9467bd", "#1f77b4", "#17becf", "#7f7f7f", "#2ca02c",
];

/// Lines by name over two axes.
#[derive(Debug)]
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) x_title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) lines: Vec<(&'static str, Vec<(f64, f64)>)>,
}

impl Chart {
    pub(crate) fn render(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
        );
        self.grid(&mut svg);
        for (index, (name, points)) in self.lines.iter().enumerate() {
            self.line(&mut svg, index, name, points);
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn at_x(&self, value: f64) -> f64 {
        LEFT + self.x.share(value) * (WIDTH - RIGHT - LEFT)
    }

    fn at_y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.share(value) * (HEIGHT - BOTTOM - TOP)
    }

    fn grid(&self, svg: &mut String) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for &value in &self.x.ticks {
            let (at, below) = (self.at_x(value), bottom + 18.0);
            let _ = writeln!(
                svg,
                "<path d=\"M{at:.1} {TOP}V{bottom}\" stroke=\"#ddd\"/>\n\
                 <text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{value}</text>"
            );
        }
        for &value in &self.y.ticks {
            let (at, before) = (self.at_y(value), LEFT - 8.0);
            let _ = writeln!(
                svg,
                "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#ddd\"/>\n\
                 <text x=\"{before}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
                at + 4.0
            );
        }
        let (middle, below) = (f64::midpoint(LEFT, right), HEIGHT - 10.0);
        let Self { title, x_title, .. } = self;
        let _ = writeln!(
            svg,
            "<text x=\"{middle}\" y=\"{below}\" text-anchor=\"middle\">{x_title}</text>\n\
             <text x=\"{LEFT}\" y=\"18\">{title}</text>"
        );
    }

    /// A line, and its name at the right.
    fn line(&self, svg: &mut String, index: usize, name: &str, points: &[(f64, f64)]) {
        let colour = COLOURS[index % COLOURS.len()];
        let path: Vec<_> = points
            .iter()
            .map(|&(x, y)| format!("{:.1},{:.1}", self.at_x(x), self.at_y(y)))
            .collect();
        #[allow(clippy::cast_precision_loss)]
        let row = TOP + 18.0 * index as f64;
        let right = WIDTH - RIGHT + 12.0;
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n\
             <rect x=\"{right}\" y=\"{row}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\n\
             <text x=\"{}\" y=\"{}\">{name}</text>",
            path.join(" "),
            right + 18.0,
            row + 10.0,
        );
    }
}

/// The values between two ends.
#[derive(Debug)]
pub(crate) struct Axis {
    is_logarithmic: bool,
    low: f64,
    high: f64,
    ticks: Vec<f64>,
}

impl Axis {
    /// From the power of ten below all values to that above them; `None` if they are all one.
    pub(crate) fn decades(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (low, high) = values
            .map(f64::log10)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            });
        if low >= high {
            return None;
        }
        let (low, high) = (low.floor(), high.ceil());
        let ticks = std::iter::successors(Some(low), |power| Some(power + 1.0))
            .take_while(|power| *power <= high)
            .map(|power| 10_f64.powf(power));
        Some(Self {
            is_logarithmic: true,
            low,
            high,
            ticks: ticks.collect(),
        })
    }

    /// From the least of the values to the greatest, with a tick for each; `None` if they are all one.
    pub(crate) fn logarithmic(ticks: Vec<f64>) -> Option<Self> {
        let low = ticks.iter().copied().fold(f64::INFINITY, f64::min).log10();
        let high = ticks.iter().copied().fold(f64::NEG_INFINITY, f64::max).log10();
        (low < high).then_some(Self {
            is_logarithmic: true,
            low,
            high,
            ticks,
        })
    }

    /// Between the ends; `None` if they are not apart.
    pub(crate) fn linear(low: f64, high: f64, ticks: Vec<f64>) -> Option<Self> {
        (low < high).then_some(Self {
            is_logarithmic: false,
            low,
            high,
            ticks,
        })
    }

    /// Where a value is: 0 at the low end, 1 at the high one.
    fn share(&self, value: f64) -> f64 {
        let value = if self.is_logarithmic { value.log10() } else { value };
        (value - self.low) / (self.high - self.low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decades_are_spaced_evenly() {
        let axis = Axis::decades([1.0, 64.0, 10_000.0].into_iter()).unwrap();
        assert!((axis.share(100.0) - 0.5).abs() < 1e-9);
        assert_eq!(axis.ticks.len(), 5);
        assert!(Axis::decades([5.0].into_iter()).is_none());
    }

    #[test]
    fn an_axis_begins_and_ends_where_it_should() {
        let axis = Axis::logarithmic(vec![0.8, 1.0, 8.0]).unwrap();
        assert!(axis.share(0.8).abs() < 1e-9);
        assert!((axis.share(8.0) - 1.0).abs() < 1e-9);
        let axis = Axis::linear(0.0, 2.0, vec![]).unwrap();
        assert!((axis.share(0.5) - 0.25).abs() < 1e-9);
        assert!(Axis::linear(1.0, 1.0, vec![]).is_none());
    }

    #[test]
    fn a_chart_has_a_line_for_each_name() {
        let chart = Chart {
            title: "title".to_owned(),
            x_title: "x".to_owned(),
            x: Axis::linear(0.0, 1.0, vec![0.0, 1.0]).unwrap(),
            y: Axis::linear(0.0, 1.0, vec![0.0, 1.0]).unwrap(),
            lines: vec![("one", vec![(0.0, 0.0), (1.0, 1.0)]), ("two", vec![(0.5, 0.5)])],
        };
        let svg = chart.render();
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(svg.contains("points=\"70.0,390.0 570.0,30.0\""));
    }
}
