//! Shear, translation and rotation, as Pillow's `Image.transform` (`libImaging/Geometry.c`).

use tubelet_core::Size;

use super::{Canvas, ColorOp, ColorScratch, Interpolation};

/// From a place in the result to a place in the source: (x, y) ↦ (a·x + b·y + c, d·x + e·y + f),
/// pixel centres at one half.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Affine([f64; 6]);

impl Affine {
    /// The transformation of a geometric operation; `None` for the others and for none at all.
    pub(crate) fn of(op: ColorOp, size: Size) -> Option<Self> {
        let (width, height) = (f64::from(size.width), f64::from(size.height));
        Some(Self(match op {
            ColorOp::ShearX(factor) => [1.0, factor, 0.0, 0.0, 1.0, 0.0],
            ColorOp::ShearY(factor) => [1.0, 0.0, 0.0, factor, 1.0, 0.0],
            ColorOp::TranslateX(share) => [1.0, 0.0, share * width, 0.0, 1.0, 0.0],
            ColorOp::TranslateY(share) => [1.0, 0.0, 0.0, 0.0, 1.0, share * height],
            ColorOp::TranslateXPixels(pixels) => [1.0, 0.0, pixels, 0.0, 1.0, 0.0],
            ColorOp::TranslateYPixels(pixels) => [1.0, 0.0, 0.0, 0.0, 1.0, pixels],
            ColorOp::Rotate(degrees) => return Self::rotation(degrees, width, height),
            _ => return None,
        }))
    }

    /// Pillow's `Image.rotate` about the middle.
    fn rotation(degrees: f64, width: f64, height: f64) -> Option<Self> {
        let degrees = degrees.rem_euclid(360.0);
        if degrees == 0.0 {
            return None;
        }
        let angle = -degrees.to_radians();
        let (cos, sin) = (round15(angle.cos()), round15(angle.sin()));
        let minus = round15(-angle.sin());
        let (x, y) = (width / 2.0, height / 2.0);
        let c = cos * -x + sin * -y + x;
        let f = minus * -x + cos * -y + y;
        Some(Self([cos, sin, c, minus, cos, f]))
    }

    /// Transforms packed RGB in place.
    pub(crate) fn apply(
        self,
        canvas: Canvas,
        pixels: &mut [u8],
        size: Size,
        scratch: &mut ColorScratch,
    ) {
        scratch.copy.clear();
        scratch.copy.extend_from_slice(pixels);
        let source = Source { pixels: &scratch.copy, size };
        let [a, b, c, d, e, f] = self.0;
        let row_bytes = size.width as usize * 3;
        for (y, row) in pixels.chunks_exact_mut(row_bytes).enumerate() {
            let yin = y as f64 + 0.5;
            for (x, out) in row.chunks_exact_mut(3).enumerate() {
                let xin = x as f64 + 0.5;
                let at = (a * xin + b * yin + c, d * xin + e * yin + f);
                let pixel = match canvas.interpolation {
                    Interpolation::Bilinear => source.bilinear(at),
                    Interpolation::Bicubic => source.bicubic(at),
                };
                out.copy_from_slice(&pixel.unwrap_or(canvas.fill));
            }
        }
    }
}

/// Python's `round(x, 15)`.
fn round15(x: f64) -> f64 {
    format!("{x:.15}").parse().unwrap_or(x)
}

#[derive(Clone, Copy)]
struct Source<'a> {
    pixels: &'a [u8],
    size: Size,
}

impl Source<'_> {
    /// First row and column left of a place and what is left of the place; `None` outside.
    fn split(&self, (x, y): (f64, f64)) -> Option<(i64, i64, f64, f64)> {
        let inside = |v: f64, end: u32| v >= 0.0 && v < f64::from(end);
        if !(inside(x, self.size.width) && inside(y, self.size.height)) {
            return None;
        }
        let (x, y) = (x - 0.5, y - 0.5);
        let (left, top) = (x.floor(), y.floor());
        Some((left as i64, top as i64, x - left, y - top))
    }

    /// The pixel there; places outside repeat the border.
    fn at(&self, x: i64, y: i64) -> [f64; 3] {
        let x = x.clamp(0, i64::from(self.size.width) - 1) as usize;
        let y = y.clamp(0, i64::from(self.size.height) - 1) as usize;
        let start = (y * self.size.width as usize + x) * 3;
        [0, 1, 2].map(|c| f64::from(self.pixels[start + c]))
    }

    fn bilinear(&self, at: (f64, f64)) -> Option<[u8; 3]> {
        let (x, y, dx, dy) = self.split(at)?;
        let row = |y: i64| mix(self.at(x, y), self.at(x + 1, y), dx);
        Some(mix(row(y), row(y + 1), dy).map(|v| v as u8))
    }

    fn bicubic(&self, at: (f64, f64)) -> Option<[u8; 3]> {
        let (x, y, dx, dy) = self.split(at)?;
        let row = |y: i64| cubic([-1, 0, 1, 2].map(|k| self.at(x + k, y)), dx);
        Some(cubic([-1, 0, 1, 2].map(|k| row(y + k)), dy).map(|v| v as u8))
    }
}

fn mix(a: [f64; 3], b: [f64; 3], share: f64) -> [f64; 3] {
    std::array::from_fn(|c| a[c] + (b[c] - a[c]) * share)
}

/// Pillow's cubic through four values (a = −1).
fn cubic(v: [[f64; 3]; 4], d: f64) -> [f64; 3] {
    std::array::from_fn(|c| {
        let [v1, v2, v3, v4] = [v[0][c], v[1][c], v[2][c], v[3][c]];
        let p2 = -v1 + v3;
        let p3 = 2.0 * (v1 - v2) + v3 - v4;
        let p4 = -v1 + v2 - v3 + v4;
        v2 + d * (p2 + d * (p3 + d * p4))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANVAS: Canvas = Canvas { interpolation: Interpolation::Bicubic, fill: [1, 2, 3] };

    fn run(op: ColorOp, size: Size) -> (Vec<u8>, Vec<u8>) {
        let source: Vec<u8> = (0..size.area() * 3).map(|i| (i * 37 % 251) as u8).collect();
        let mut pixels = source.clone();
        super::super::apply(op, CANVAS, &mut pixels, size, &mut ColorScratch::default());
        (source, pixels)
    }

    #[test]
    fn whole_shifts_move_pixels_and_fill_the_rest() {
        let size = Size::new(8, 4);
        let (source, pixels) = run(ColorOp::TranslateX(0.25), size);
        assert_eq!(pixels[..18], source[6..24]);
        assert_eq!(pixels[18..24], [1, 2, 3, 1, 2, 3]);
        let (source, pixels) = run(ColorOp::TranslateYPixels(-1.0), size);
        assert_eq!(pixels[24..], source[..72]);
    }

    #[test]
    fn a_quarter_turn_of_a_square_moves_its_corners() {
        let size = Size::square(6);
        let (source, pixels) = run(ColorOp::Rotate(90.0), size);
        assert_eq!(pixels[..3], source[15..18]);
        assert_eq!(run(ColorOp::Rotate(0.0), size).1, source);
    }
}
