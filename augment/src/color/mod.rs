//! Operations on 8-bit pictures, with Pillow's arithmetic.
//!
//! A [`ColorOp`] is plain data: its arguments were drawn when the row was planned. [`apply`] works
//! in place on packed RGB. Colours change in [`point`] (a table a channel) and [`enhance`] (blends
//! with a degenerate picture), shapes in [`affine`], [`hue`] turns hues and [`blur`] blurs.

pub mod affine;
pub mod blur;
pub mod enhance;
pub mod hue;
pub mod jitter;
pub mod point;
pub mod randaugment;

use serde::{Deserialize, Serialize};
use tubelet_core::Size;

use affine::Affine;

/// How pixels between the grid are found by a geometric operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interpolation {
    /// Between 2 × 2 pixels.
    Bilinear,
    /// Between 4 × 4 pixels.
    #[default]
    Bicubic,
}

/// One operation with all its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ColorOp {
    /// Each channel stretched to 0..=255.
    AutoContrast,
    /// Each channel's histogram made flat.
    Equalize,
    /// 255 − v.
    Invert,
    /// Turned counter-clockwise by this many degrees about the middle.
    Rotate(f64),
    /// The highest bits kept; 8 and more change nothing.
    Posterize(u8),
    /// Values from this one on inverted; 256 changes nothing.
    Solarize(u16),
    /// This much added to values below 128.
    SolarizeAdd(i16),
    /// Saturation: 0 is grey, 1 the picture.
    Saturation(f64),
    /// Contrast about the mean grey: 0 is flat, 1 the picture.
    Contrast(f64),
    /// Brightness: 0 is black, 1 the picture.
    Brightness(f64),
    /// Sharpness: 0 is smoothed, 1 the picture.
    Sharpness(f64),
    /// Column shifted by this many columns a row.
    ShearX(f64),
    /// Row shifted by this many rows a column.
    ShearY(f64),
    /// Shifted by this share of the width.
    TranslateX(f64),
    /// Shifted by this share of the height.
    TranslateY(f64),
    /// Shifted by this many columns.
    TranslateXPixels(f64),
    /// Shifted by this many rows.
    TranslateYPixels(f64),
    /// Hue turned by this share of the circle, −0.5 to 0.5.
    Hue(f64),
    /// Luminance in all channels.
    Grayscale,
    /// Gaussian blur of this standard deviation, by three box blurs.
    GaussianBlur(f64),
}

/// What geometric operations need besides their argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Canvas {
    /// How pixels are found between the grid.
    pub interpolation: Interpolation,
    /// Colour of what comes from outside.
    pub fill: [u8; 3],
}

/// Buffers kept between operations.
#[derive(Clone, Debug, Default)]
pub struct ColorScratch {
    pub(crate) copy: Vec<u8>,
}

/// Applies `op` to packed RGB `pixels` (`height × width × 3` bytes) in place.
///
/// # Panics
/// When `pixels` is not of that length.
pub fn apply(
    op: ColorOp,
    canvas: Canvas,
    pixels: &mut [u8],
    size: Size,
    scratch: &mut ColorScratch,
) {
    assert_eq!(pixels.len(), size.area() * 3, "{size}");
    match op {
        ColorOp::AutoContrast => point::auto_contrast(pixels),
        ColorOp::Equalize => point::equalize(pixels),
        ColorOp::Invert => point::map(pixels, |v| 255 - v),
        ColorOp::Posterize(bits) => point::posterize(pixels, bits),
        ColorOp::Solarize(threshold) => point::solarize(pixels, threshold),
        ColorOp::SolarizeAdd(add) => point::solarize_add(pixels, add),
        ColorOp::Saturation(factor) => enhance::saturation(pixels, factor),
        ColorOp::Contrast(factor) => enhance::contrast(pixels, factor),
        ColorOp::Brightness(factor) => enhance::brightness(pixels, factor),
        ColorOp::Sharpness(factor) => enhance::sharpness(pixels, size, factor, scratch),
        ColorOp::Grayscale => enhance::grayscale(pixels),
        ColorOp::Hue(turn) => hue::turn(pixels, turn),
        ColorOp::GaussianBlur(sigma) => blur::gaussian(pixels, size, sigma, scratch),
        geometric => {
            if let Some(affine) = Affine::of(geometric, size) {
                affine.apply(canvas, pixels, size, scratch);
            }
        }
    }
}
