//! Line charts as SVG.

use anyhow::Context as _;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

/// The name of a line and its points.
pub(crate) type Line = (&'static str, Vec<(f64, f64)>);

const SIZE: (u32, u32) = (760, 440);
const FONT: (&str, i32) = ("sans-serif", 15);
/// Where the plot ends and the legend begins, in pixels from the left.
const LEGEND: i32 = 580;

const COLOURS: [RGBColor; 9] = [
    RGBColor(214, 39, 40),
    RGBColor(255, 152, 150),
    RGBColor(148, 103, 189),
    RGBColor(31, 119, 180),
    RGBColor(23, 190, 207),
    RGBColor(127, 127, 127),
    RGBColor(199, 199, 199),
    RGBColor(44, 160, 44),
    RGBColor(188, 189, 34),
];

/// Draws lines over two axes, and a legend beside them. Returns the SVG.
pub(crate) fn render<X, Y>(title: &str, x_title: &str, x: X, y: Y, lines: &[Line]) -> anyhow::Result<String>
where
    X: AsRangedCoord<Value = f64, CoordDescType: ValueFormatter<f64>>,
    Y: AsRangedCoord<Value = f64, CoordDescType: ValueFormatter<f64>>,
{
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let (left, right) = area.split_horizontally(LEGEND);
        let mut plot = ChartBuilder::on(&left)
            .caption(title, FONT)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(x, y)?;
        plot.configure_mesh()
            .x_desc(x_title)
            .label_style(FONT)
            .axis_desc_style(FONT)
            .light_line_style(TRANSPARENT)
            .x_label_formatter(&tick)
            .y_label_formatter(&tick)
            .draw()?;
        for ((_, points), colour) in lines.iter().zip(COLOURS.iter().cycle()) {
            plot.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
        }
        legend(&right, lines)?;
        area.present()?;
    }
    Ok(svg)
}

/// Labels a tick of an axis, with two decimals at most.
fn tick(value: &f64) -> String {
    ((value * 100.0).round() / 100.0).to_string()
}

fn legend(area: &DrawingArea<SVGBackend<'_>, Shift>, lines: &[Line]) -> anyhow::Result<()> {
    for (row, ((name, _), colour)) in lines.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let y = 40 + 18 * i32::try_from(row).context("too many lines")?;
        area.draw(&Rectangle::new([(0, y), (12, y + 12)], colour.filled()))?;
        area.draw(&Text::new(*name, (18, y), FONT))?;
    }
    Ok(())
}

/// Returns the smallest range from one power of ten to another that includes all values, or `None`
/// if there are no two different values. They must be positive.
pub(crate) fn decades(values: impl Iterator<Item = f64> + Clone) -> Option<std::ops::Range<f64>> {
    let (low, high) = (
        values.clone().fold(f64::INFINITY, f64::min),
        values.fold(f64::NEG_INFINITY, f64::max),
    );
    (low < high).then(|| 10_f64.powf(low.log10().floor())..10_f64.powf(high.log10().ceil()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decades_include_all_values() {
        assert_eq!(decades([64.0, 1.0, 9_000.0].into_iter()), Some(1.0..10_000.0));
        assert_eq!(decades([5.0, 5.0].into_iter()), None);
    }

    #[test]
    fn a_chart_has_each_line_and_its_name() {
        let lines = [
            ("one", vec![(1.0, 0.0), (100.0, 1.0)]),
            ("two", vec![(10.0, 0.5), (20.0, 0.6)]),
        ];
        let x = (1.0..100.0).log_scale();
        let svg = render("title", "x", x, 0.0..1.0, &lines).unwrap();
        assert_eq!(svg.matches("stroke-width=\"2\"").count(), 2);
        assert!(lines.iter().all(|(name, _)| svg.contains(name)));
    }
}
