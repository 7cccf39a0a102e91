//! Line charts as SVG.

use plotters::prelude::*;

use crate::run::Metric;

/// A named curve.
#[derive(Clone, Debug)]
pub struct Line<'a> {
    name: &'a str,
    points: Vec<(f64, f64)>,
}

/// Points a curve of single steps is averaged down to.
const POINTS: usize = 200;

impl<'a> Line<'a> {
    /// A curve through `points`; those that are not finite are left out.
    pub fn new(name: &'a str, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let points = points.into_iter().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
        Self { name, points }
    }

    /// A number of every step, neighbours averaged where there are many.
    pub fn of(name: &'a str, metrics: &[Metric], of: fn(&Metric) -> f64) -> Self {
        let window = metrics.len().div_ceil(POINTS).max(1);
        let mean = |part: &[Metric], f: &dyn Fn(&Metric) -> f64| {
            part.iter().map(f).sum::<f64>() / part.len() as f64
        };
        let points = metrics.chunks(window).map(|p| (mean(p, &|m| m.step as f64), mean(p, &of)));
        Self::new(name, points)
    }

    /// The loss by step.
    pub fn loss(name: &'a str, metrics: &[Metric]) -> Self {
        Self::of(name, metrics, |m| m.loss)
    }
}

const SIZE: (u32, u32) = (860, 300);
const COLOURS: [RGBColor; 4] =
    [RGBColor(29, 78, 216), RGBColor(194, 65, 12), RGBColor(21, 128, 61), RGBColor(126, 34, 206)];

/// The lines in one chart over the steps; `None` where no line has two points.
pub fn chart(y: &str, lines: &[Line<'_>]) -> Option<String> {
    let lines: Vec<&Line<'_>> = lines.iter().filter(|l| l.points.len() > 1).collect();
    let all = || lines.iter().flat_map(|l| &l.points);
    let range = |of: fn(&(f64, f64)) -> f64| {
        let (low, high) = all()
            .map(of)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let margin = ((high - low) * 0.05).max(high.abs() * 1e-3).max(1e-12);
        (low, high, margin)
    };
    if lines.is_empty() {
        return None;
    }
    let ((x_low, x_high, _), (y_low, y_high, margin)) = (range(|p| p.0), range(|p| p.1));
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin(8)
            .x_label_area_size(34)
            .y_label_area_size(70)
            .build_cartesian_2d(x_low..x_high.max(x_low + 1.0), y_low - margin..y_high + margin)
            .ok()?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(231, 229, 228))
            .x_desc("step")
            .y_desc(y)
            .x_label_formatter(&|v| format!("{v:.0}"))
            .y_label_formatter(&|v| short(*v))
            .draw()
            .ok()?;
        for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
            let style = colour.stroke_width(2);
            chart
                .draw_series(LineSeries::new(line.points.iter().copied(), style))
                .ok()?
                .label(line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
        }
        if lines.len() > 1 {
            chart
                .configure_series_labels()
                .background_style(WHITE.mix(0.8))
                .border_style(TRANSPARENT)
                .draw()
                .ok()?;
        }
        root.present().ok()?;
    }
    Some(svg)
}

/// A number in a few characters.
fn short(v: f64) -> String {
    match v.abs() {
        a if a != 0.0 && a < 1e-3 => format!("{v:.1e}"),
        a if a < 1.0 => format!("{v:.3}"),
        a if a < 100.0 => format!("{v:.2}"),
        _ => format!("{v:.0}"),
    }
}
