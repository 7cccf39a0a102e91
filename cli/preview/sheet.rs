//! Panels with their labels, placed on paper.

use font8x8::legacy::BASIC_LEGACY;
use image::{Rgb, RgbImage, imageops};
use tubelet_core::Size;

/// Paper colour.
const PAPER: Rgb<u8> = Rgb([255, 255, 255]);
/// Text colour.
const INK: Rgb<u8> = Rgb([20, 20, 20]);
/// Width of the lines between pictures.
const GAP: u32 = 6;
/// Side of a character.
const CHARACTER: u32 = 8;
/// From one line of text to the next.
const LINE: u32 = 11;
/// Pictures side by side at most.
const ACROSS: usize = 8;
/// Width of a frame around a picture.
const FRAME: u32 = 3;

/// Pictures with one label: one of a picture, several frames of a clip.
pub(super) struct Panel {
    pub(super) label: String,
    /// The colour around them.
    pub(super) ink: Option<[u8; 3]>,
    pub(super) pictures: Vec<RgbImage>,
}

/// A title, and the panels below it: each a line, or side by side where all have one picture.
/// Pictures are shrunk to `cell`.
pub(super) fn strip(title: &str, panels: &[Panel], cell: Size) -> RgbImage {
    let single = panels.iter().all(|panel| panel.pictures.len() == 1);
    let lines: Vec<&[Panel]> = panels.chunks(if single { ACROSS } else { 1 }).collect();
    let pictures = |line: &[Panel]| line.iter().map(|panel| panel.pictures.len()).sum::<usize>();
    let columns = lines.iter().map(|line| pictures(line)).max().unwrap_or(1);
    let step = cell.width + GAP;
    let width = GAP + columns as u32 * step;
    let room = (if single { cell.width } else { width - 2 * GAP } / CHARACTER) as usize;
    let labels: Vec<Vec<Vec<String>>> = lines
        .iter()
        .map(|line| line.iter().map(|panel| wrapped(&panel.label, room)).collect())
        .collect();
    let text = |line: &[Vec<String>]| line.iter().map(Vec::len).max().unwrap_or(0) as u32 * LINE;
    let drawn: Vec<Vec<Vec<RgbImage>>> = lines
        .iter()
        .map(|line| {
            let fitted = |panel: &Panel| {
                panel.pictures.iter().map(|p| framed(fit(p, cell), panel.ink)).collect()
            };
            line.iter().map(fitted).collect()
        })
        .collect();
    let tall = |line: &[Vec<RgbImage>]| line.iter().flatten().map(RgbImage::height).max();
    let height: u32 = labels
        .iter()
        .zip(&drawn)
        .map(|(labels, line)| text(labels) + tall(line).unwrap_or(0) + 2 * GAP)
        .sum();
    let title = wrapped(title, ((width - 2 * GAP) / CHARACTER) as usize);
    let mut top = GAP + title.len() as u32 * LINE + GAP;
    let mut out = RgbImage::from_pixel(width, top + height + GAP, PAPER);
    write(&mut out, &title, GAP, GAP);
    for (line, labels) in drawn.iter().zip(&labels) {
        let mut left = GAP;
        let below = top + text(labels);
        for (pictures, label) in line.iter().zip(labels) {
            write(&mut out, label, left, below - label.len() as u32 * LINE);
            for picture in pictures {
                imageops::replace(&mut out, picture, left.into(), below.into());
                left += step;
            }
        }
        top = below + tall(line).unwrap_or(0) + 2 * GAP;
    }
    out
}

/// Strips one below the other.
pub(super) fn stack(strips: &[RgbImage]) -> RgbImage {
    let width = strips.iter().map(RgbImage::width).max().unwrap_or(1);
    let height = strips.iter().map(RgbImage::height).sum::<u32>().max(1);
    let mut out = RgbImage::from_pixel(width, height, PAPER);
    let mut top = 0;
    for strip in strips {
        imageops::replace(&mut out, strip, 0, i64::from(top));
        top += strip.height();
    }
    out
}

/// `picture`, shrunk where it is larger than a cell.
fn fit(picture: &RgbImage, cell: Size) -> RgbImage {
    let (w, h) = picture.dimensions();
    let scale = (f64::from(cell.width) / f64::from(w)).min(f64::from(cell.height) / f64::from(h));
    if scale >= 1.0 {
        return picture.clone();
    }
    let side = |x: u32, most: u32| ((f64::from(x) * scale).round() as u32).clamp(1, most);
    let (width, height) = (side(w, cell.width), side(h, cell.height));
    imageops::resize(picture, width, height, imageops::FilterType::Triangle)
}

/// `picture` with a line of `ink` around its inside.
fn framed(picture: RgbImage, ink: Option<[u8; 3]>) -> RgbImage {
    let mut out = picture;
    let Some(ink) = ink else { return out };
    let (w, h) = out.dimensions();
    for (x, y, pixel) in out.enumerate_pixels_mut() {
        if x.min(y) < FRAME || x + FRAME >= w || y + FRAME >= h {
            *pixel = Rgb(ink);
        }
    }
    out
}

/// `text` in lines of at most `room` characters, cut between words where that is possible.
fn wrapped(text: &str, room: usize) -> Vec<String> {
    let room = room.max(1);
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        loop {
            let line = lines.len() - 1;
            let used = lines[line].chars().count();
            let gap = usize::from(used > 0);
            if used + gap + word.len() <= room {
                lines[line].extend(std::iter::repeat_n(' ', gap).chain(word));
                break;
            }
            if used == 0 {
                lines[line].extend(word.drain(..room));
            }
            lines.push(String::new());
        }
    }
    lines
}

/// Writes lines of text; characters without a glyph become question marks.
fn write(out: &mut RgbImage, lines: &[String], left: u32, top: u32) {
    for (line, y) in lines.iter().zip((top..).step_by(LINE as usize)) {
        for (character, x) in line.chars().zip((left..).step_by(CHARACTER as usize)) {
            let glyph = BASIC_LEGACY.get(character as usize).unwrap_or(&BASIC_LEGACY['?' as usize]);
            draw(out, glyph, x, y);
        }
    }
}

/// Draws a glyph: a byte a row, its lowest bit on the left.
fn draw(out: &mut RgbImage, glyph: &[u8; CHARACTER as usize], left: u32, top: u32) {
    for (row, y) in glyph.iter().zip(top..) {
        for x in (0..CHARACTER).filter(|x| row >> x & 1 == 1) {
            if left + x < out.width() && y < out.height() {
                out.put_pixel(left + x, y, INK);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_cut_between_words() {
        assert_eq!(wrapped("hidden 147 of 196", 10), ["hidden 147", "of 196"]);
        assert_eq!(wrapped("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
        assert_eq!(wrapped("", 5), [""]);
        assert!(wrapped("a bc def", 3).iter().all(|line| line.len() <= 3));
    }

    #[test]
    fn every_panel_is_on_the_sheet() {
        let panel = |grey: u8, pictures: usize| Panel {
            label: "a label".to_owned(),
            ink: None,
            pictures: vec![RgbImage::from_pixel(9, 7, Rgb([grey; 3])); pictures],
        };
        for panels in [vec![panel(60, 1), panel(90, 1)], vec![panel(60, 4), panel(90, 1)]] {
            let sheet = strip("title", &panels, Size::new(40, 30));
            for panel in &panels {
                let grey = *panel.pictures[0].get_pixel(0, 0);
                let count = sheet.pixels().filter(|pixel| **pixel == grey).count();
                assert_eq!(count, 63 * panel.pictures.len());
            }
        }
    }
}
