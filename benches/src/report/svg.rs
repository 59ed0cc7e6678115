//! Throughput over calls in flight, both on logarithmic scales.

use std::fmt::Write as _;

use super::Cell;
use crate::contenders::Kind;
use crate::scenario::{BASE, Scenario};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 50.0;

const COLOURS: [&str; 7] = [
    "#d62728", "#ff9896", "#9467bd", "#1f77b4", "#17becf", "#7f7f7f", "#2ca02c",
];

/// The plot; nothing where no contender ran at two numbers of calls in flight.
pub(crate) fn render(cells: &[Cell]) -> Option<String> {
    let lines = lines(cells);
    let points = || lines.iter().flat_map(|(_, points)| points);
    let x = Scale::around(points().map(|point| point.0), LEFT, WIDTH - RIGHT)?;
    let y = Scale::around(points().map(|point| point.1), HEIGHT - BOTTOM, TOP)?;

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    for value in x.decades() {
        let (at, bottom) = (x.place(value), HEIGHT - BOTTOM);
        let _ = writeln!(svg, "<path d=\"M{at} {TOP}V{bottom}\" stroke=\"#ddd\"/>");
        let _ = writeln!(
            svg,
            "<text x=\"{at}\" y=\"{}\" text-anchor=\"middle\">{value}</text>",
            bottom + 18.0
        );
    }
    for value in y.decades() {
        let (at, right) = (y.place(value), WIDTH - RIGHT);
        let _ = writeln!(svg, "<path d=\"M{LEFT} {at}H{right}\" stroke=\"#ddd\"/>");
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{value}</text>",
            LEFT - 8.0,
            at + 4.0
        );
    }
    let middle = f64::midpoint(LEFT, WIDTH - RIGHT);
    let _ = writeln!(
        svg,
        "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">calls in flight</text>\n\
         <text x=\"{LEFT}\" y=\"18\">calls a second, {} B, one worker</text>",
        HEIGHT - 10.0,
        BASE.payload
    );
    for (index, (contender, points)) in lines.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let path: Vec<_> = points
            .iter()
            .map(|&(in_flight, rate)| format!("{:.1},{:.1}", x.place(in_flight), y.place(rate)))
            .collect();
        #[allow(clippy::cast_precision_loss)]
        let row = TOP + 18.0 * index as f64;
        let right = WIDTH - RIGHT + 12.0;
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n\
             <rect x=\"{right}\" y=\"{row}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\n\
             <text x=\"{}\" y=\"{}\">{}</text>",
            path.join(" "),
            right + 18.0,
            row + 10.0,
            contender.name(),
        );
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

/// In flight and calls a second, by contender, where all else is the base.
fn lines(cells: &[Cell]) -> Vec<(Kind, Vec<(f64, f64)>)> {
    let mut lines: Vec<(Kind, Vec<(f64, f64)>)> = Vec::new();
    for cell in cells {
        let in_flight = cell.scenario.in_flight;
        if cell.scenario != (Scenario { in_flight, ..BASE }) {
            continue;
        }
        #[allow(clippy::cast_precision_loss)]
        let point = (in_flight as f64, cell.median().calls_per_second);
        match lines.iter_mut().find(|(kind, _)| *kind == cell.contender) {
            Some((_, points)) => points.push(point),
            None => lines.push((cell.contender, vec![point])),
        }
    }
    lines
}

/// Places values between two ends of an axis.
struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// From the power of ten below all values to that above them; nothing where they are all one.
    fn around(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Option<Self> {
        let (low, high) = values
            .map(f64::log10)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            });
        (low < high).then(|| Self {
            low: low.floor(),
            high: high.ceil(),
            from,
            to,
        })
    }

    fn place(&self, value: f64) -> f64 {
        let share = (value.log10() - self.low) / (self.high - self.low);
        self.from + share * (self.to - self.from)
    }

    fn decades(&self) -> impl Iterator<Item = f64> {
        let (low, high) = (self.low, self.high);
        std::iter::successors(Some(low), |power| Some(power + 1.0))
            .take_while(move |power| *power <= high)
            .map(|power| 10_f64.powf(power))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_is_logarithmic() {
        let scale = Scale::around([1.0, 64.0, 10_000.0].into_iter(), 0.0, 400.0).unwrap();
        assert!((scale.place(100.0) - 200.0).abs() < 1e-9);
        assert_eq!(scale.decades().count(), 5);
        assert!(Scale::around([5.0].into_iter(), 0.0, 1.0).is_none());
    }
}
