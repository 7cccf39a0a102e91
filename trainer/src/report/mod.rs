//! Self-contained HTML pages about a run: curves as SVG, pictures inside, no other file needed.

mod chart;
mod picture;

use std::fmt::Write as _;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::RgbImage;

pub use chart::{Line, chart};
pub use picture::{draw_hog, reconstructions};

use crate::error::TrainError;
use crate::run::Metric;

/// A page that grows section by section.
#[derive(Clone, Debug)]
pub struct Page {
    html: String,
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;\
    padding:0 1rem;color:#1c1917}td,th{padding:.2rem .8rem .2rem 0;text-align:left}\
    img,svg{max-width:100%;height:auto}img{image-rendering:pixelated}";

impl Page {
    /// An empty page.
    pub fn new(title: &str) -> Self {
        let title = escape(title);
        let html = format!(
            "<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>\
             <style>{STYLE}</style><h1>{title}</h1>\n"
        );
        Self { html }
    }

    /// A heading.
    pub fn heading(&mut self, text: &str) -> &mut Self {
        self.push(format_args!("<h2>{}</h2>\n", escape(text)))
    }

    /// A paragraph.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.push(format_args!("<p>{}</p>\n", escape(text)))
    }

    /// Rows of a name and a value.
    pub fn table<N: AsRef<str>, V: AsRef<str>>(
        &mut self,
        rows: impl IntoIterator<Item = (N, V)>,
    ) -> &mut Self {
        self.html += "<table>";
        for (name, value) in rows {
            let (name, value) = (escape(name.as_ref()), escape(value.as_ref()));
            self.push(format_args!("<tr><th>{name}</th><td>{value}</td></tr>"));
        }
        self.html += "</table>\n";
        self
    }

    /// Curves; left out where no line has two points.
    pub fn chart(&mut self, y: &str, lines: &[Line<'_>]) -> &mut Self {
        if let Some(svg) = chart(y, lines) {
            self.push(format_args!("<figure>{svg}</figure>\n"));
        }
        self
    }

    /// A PNG file's bytes, with a line about what it shows.
    pub fn picture(&mut self, png: &[u8], caption: &str) -> &mut Self {
        let (data, caption) = (STANDARD.encode(png), escape(caption));
        self.push(format_args!(
            "<figure><img alt=\"{caption}\" src=\"data:image/png;base64,{data}\">\
             <figcaption>{caption}</figcaption></figure>\n"
        ))
    }

    /// Writes the page.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), TrainError> {
        std::fs::write(path, &self.html).map_err(|e| TrainError::file(path, e))
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) -> &mut Self {
        // Writing to a string cannot fail.
        let _ = self.html.write_fmt(text);
        self
    }
}

/// File name of a run's report.
pub const REPORT: &str = "report.html";
/// File name of a pre-training run's picture.
pub const RECONSTRUCTIONS: &str = "reconstructions.png";

/// What the picture of [`reconstructions`] shows.
pub const RECONSTRUCTIONS_CAPTION: &str = "Three rows a sample: the input, the same with hidden \
    tokens grey, and the network's prediction in their place. Normalised pixels get the mean and \
    spread of the true ones; orientation histograms are drawn as lines.";

/// Writes `report.html` and `reconstructions.png` of a pre-training run.
pub(crate) fn write_pretraining(
    run: &Path,
    recipe: &str,
    metrics: &[Metric],
    picture: &RgbImage,
) -> Result<(), TrainError> {
    let mut png = Vec::new();
    let encoded = picture.write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png);
    let path = run.join(RECONSTRUCTIONS);
    encoded
        .map_err(std::io::Error::other)
        .and_then(|()| std::fs::write(&path, &png))
        .map_err(|e| TrainError::file(&path, e))?;
    let mut page = Page::new(&format!("Pre-training of {recipe}"));
    page.table(facts(metrics)).heading("Loss").chart("loss", &[Line::loss("loss", metrics)]);
    page.heading("Reconstructions").picture(&png, RECONSTRUCTIONS_CAPTION);
    rates(&mut page, metrics);
    page.write(&run.join(REPORT))
}

/// Writes `report.html` of a fine-tuning run.
pub(crate) fn write_finetuning(
    run: &Path,
    recipe: &str,
    metrics: &[Metric],
    classes: &[String],
) -> Result<(), TrainError> {
    let mut page = Page::new(&format!("Fine-tuning of {recipe}"));
    page.table(facts(metrics)).heading("Loss").chart("loss", &[Line::loss("loss", metrics)]);
    let validations = || metrics.iter().filter_map(|m| Some((m, m.validation.as_ref()?)));
    if let Some((_, last)) = validations().next_back() {
        page.heading("Validation").table([
            ("top-1", format!("{:.2} %", 100.0 * last.top1)),
            ("top-5", format!("{:.2} %", 100.0 * last.top5)),
            ("samples", format!("{}, {} views each", last.samples, last.views)),
            ("left out", last.left_out.to_string()),
            ("chance", format!("{:.2} %", 100.0 / classes.len().max(1) as f64)),
        ]);
        let line = |name, of: fn(&crate::evaluate::Accuracy) -> f64| {
            Line::new(name, validations().map(|(m, a)| (m.step as f64, 100.0 * of(a))))
        };
        page.chart("accuracy in %", &[line("top-1", |a| a.top1), line("top-5", |a| a.top5)]);
    }
    rates(&mut page, metrics);
    page.write(&run.join(REPORT))
}

fn facts(metrics: &[Metric]) -> Vec<(&'static str, String)> {
    let Some(last) = metrics.last() else { return vec![("steps", "0".to_owned())] };
    let mean = |of: fn(&Metric) -> f64| metrics.iter().map(of).sum::<f64>() / metrics.len() as f64;
    let decoded = last.decoded_per_wanted.map_or("unknown".to_owned(), |n| format!("{n:.2}"));
    let references =
        last.by_references.map_or("none: no video is made for it".to_owned(), |share| {
            format!("{:.1} %, the others exactly as they are coded", 100.0 * share)
        });
    vec![
        ("steps", last.step.to_string()),
        ("epochs begun", (last.epoch + 1).to_string()),
        ("last loss", format!("{:.4}", last.loss)),
        ("speed, mean", format!("{:.1} samples/s", mean(|m| m.rows_per_s))),
        ("waiting for data, mean", format!("{:.1} %", 100.0 * mean(|m| m.data_wait))),
        ("pictures decoded for each wanted frame", decoded),
        ("clips decoded of spaced references alone", references),
    ]
}

fn rates(page: &mut Page, metrics: &[Metric]) {
    let line = |name, of: fn(&Metric) -> f64| Line::of(name, metrics, of);
    page.heading("Schedule, gradients, speed")
        .chart("learning rate", &[line("learning rate", |m| m.lr)])
        .chart("norm of the gradients", &[line("gradients", |m| m.grad_norm)])
        .chart("samples/s", &[line("samples/s", |m| m.rows_per_s)])
        .chart("% waiting for data", &[line("waiting", |m| 100.0 * m.data_wait)]);
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_holds_all_it_shows() {
        let points = [(1.0, 2.0), (2.0, 1.0)];
        let mut page = Page::new("a < b");
        page.table([("x", "1 & 2")]).chart("loss", &[Line::new("one", points)]);
        page.chart("nothing", &[Line::new("empty", [])]).picture(b"png", "what");
        assert!(page.html.contains("a &lt; b") && page.html.contains("1 &amp; 2"));
        assert_eq!(page.html.matches("<svg").count(), 1);
        assert!(page.html.contains("base64,cG5n"));
        assert!(!page.html.contains("http") || page.html.contains("http://www.w3.org/2000/svg"));
    }
}
