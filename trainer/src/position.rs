//! Fixed position tables and the resizing of learned ones.
//!
//! All tables are computed in f64 and rounded once; rows are tokens, row-major over the grid.

use std::f64::consts::TAU;

use crate::weights::Array;

/// MAE's 2-D table `[1, cls + h·w, dim]` (`util/pos_embed.py`): the first half of the channels
/// encodes the column, the second the row, each as `[sin, cos]` halves; a class row of zeros comes
/// first. `dim` is a multiple of 4.
pub fn sincos_2d(dim: usize, grid: [usize; 2], cls: bool) -> Array {
    table(dim, cls, grid[0] * grid[1], |token, row| {
        let (y, x) = (token / grid[1], token % grid[1]);
        let (first, second) = row.split_at_mut(dim / 2);
        halves(x as f64, first);
        halves(y as f64, second);
    })
}

/// BootMAE's 2-D table `[1, cls + h·w, dim]` (order of MoCo v3): quarters sin(row), cos(row),
/// sin(column), cos(column). `dim` is a multiple of 4.
pub fn sincos_2d_row_first(dim: usize, grid: [usize; 2], cls: bool) -> Array {
    table(dim, cls, grid[0] * grid[1], |token, row| {
        let (y, x) = (token / grid[1], token % grid[1]);
        let (first, second) = row.split_at_mut(dim / 2);
        halves(y as f64, first);
        halves(x as f64, second);
    })
}

/// The 3-D table `[1, cls + t·h·w, dim]` of MVD and SlowFast: a quarter of the channels for time,
/// then MAE's 2-D code (column, row) in the other three. `dim` is a multiple of 16.
pub fn sincos_3d(dim: usize, grid: [usize; 3], cls: bool) -> Array {
    let temporal = dim / 4;
    let half = (dim - temporal) / 2;
    table(dim, cls, grid.iter().product(), |token, row| {
        let (t, y, x) = (token / (grid[1] * grid[2]), token / grid[2] % grid[1], token % grid[2]);
        halves(t as f64, &mut row[..temporal]);
        halves(x as f64, &mut row[temporal..temporal + half]);
        halves(y as f64, &mut row[temporal + half..]);
    })
}

/// VideoMAE's 1-D table `[1, positions, dim]` over the flattened token index
/// (`get_sinusoid_encoding_table`): even channels sine, odd channels cosine.
pub fn sinusoid_1d(positions: usize, dim: usize) -> Array {
    table(dim, false, positions, |position, row| {
        for (j, value) in row.iter_mut().enumerate() {
            let angle = position as f64 / 10000f64.powf((2 * (j / 2)) as f64 / dim as f64);
            *value = if j % 2 == 0 { angle.sin() } else { angle.cos() } as f32;
        }
    })
}

/// How source coordinates are found when a grid is resized.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// From the two sizes, pixel centres aligned (torch `align_corners=False`).
    Sizes,
    /// From this factor instead of the sizes (DINO and iBOT hand `interpolate` a scale factor).
    Factor(f64),
}

/// Resizes a learned table `[1, extra + h·w, dim]` to another grid: the `extra` leading rows stay,
/// the grid is resampled with torch's bicubic filter (a = -0.75, no antialiasing).
pub fn resize_bicubic(
    table: &Array,
    extra: usize,
    from: [usize; 2],
    to: [usize; 2],
    scale: Scale,
) -> Array {
    resize_grid(table, extra, from, to, |n_from, n_to| axis_bicubic(n_from, n_to, scale))
}

/// The same with a linear filter whose corners are aligned, as the Flax ViT does when it
/// fine-tunes at a higher resolution (`scipy.ndimage.zoom`, order 1).
pub fn resize_linear_aligned(
    table: &Array,
    extra: usize,
    from: [usize; 2],
    to: [usize; 2],
) -> Array {
    resize_grid(table, extra, from, to, axis_linear_aligned)
}

/// Resizes planes `[planes, h, w]` with torch's bicubic filter.
pub fn resize_planes_bicubic(planes: &Array, to: [usize; 2]) -> Array {
    let [n, h, w] = [planes.shape[0], planes.shape[1], planes.shape[2]];
    let rows = axis_bicubic(h, to[0], Scale::Sizes);
    let columns = axis_bicubic(w, to[1], Scale::Sizes);
    let mut data = Vec::with_capacity(n * to[0] * to[1]);
    for plane in planes.data.chunks_exact(h * w) {
        for row in &rows {
            for column in &columns {
                data.push(sample(row, column, |y, x| f64::from(plane[y * w + x])) as f32);
            }
        }
    }
    Array::new([n, to[0], to[1]], data)
}

/// Taps of one output coordinate: source index and weight.
type Taps = Vec<(usize, f64)>;

fn table(dim: usize, cls: bool, tokens: usize, mut fill: impl FnMut(usize, &mut [f32])) -> Array {
    let rows = tokens + usize::from(cls);
    let mut data = vec![0.0; rows * dim];
    for (token, row) in data.chunks_exact_mut(dim).skip(usize::from(cls)).enumerate() {
        fill(token, row);
    }
    Array::new([1, rows, dim], data)
}

/// `[sin(p·w_k)…, cos(p·w_k)…]` with `w_k = 10000^(-k / (len/2))`.
fn halves(position: f64, out: &mut [f32]) {
    let half = out.len() / 2;
    for k in 0..half {
        let omega = 1.0 / 10000f64.powf(k as f64 / half as f64);
        let angle = position * omega;
        debug_assert!(angle.abs() < TAU * 1e6);
        out[k] = angle.sin() as f32;
        out[half + k] = angle.cos() as f32;
    }
}

fn resize_grid(
    table: &Array,
    extra: usize,
    from: [usize; 2],
    to: [usize; 2],
    axis: impl Fn(usize, usize) -> Vec<Taps>,
) -> Array {
    let dim = table.shape[2];
    let (head, grid) = table.data.split_at(extra * dim);
    let (rows, columns) = (axis(from[0], to[0]), axis(from[1], to[1]));
    let mut data = head.to_vec();
    data.reserve(to[0] * to[1] * dim);
    for row in &rows {
        for column in &columns {
            for c in 0..dim {
                let value = |y: usize, x: usize| f64::from(grid[(y * from[1] + x) * dim + c]);
                data.push(sample(row, column, value) as f32);
            }
        }
    }
    Array::new([1, extra + to[0] * to[1], dim], data)
}

fn sample(row: &Taps, column: &Taps, value: impl Fn(usize, usize) -> f64) -> f64 {
    let line = |y: usize| column.iter().map(|(x, weight)| weight * value(y, *x)).sum::<f64>();
    row.iter().map(|(y, weight)| weight * line(*y)).sum()
}

fn axis_bicubic(from: usize, to: usize, scale: Scale) -> Vec<Taps> {
    let step = match scale {
        Scale::Sizes => from as f64 / to as f64,
        Scale::Factor(factor) => 1.0 / factor,
    };
    (0..to)
        .map(|i| {
            let centre = (i as f64 + 0.5) * step - 0.5;
            let floor = centre.floor();
            (-1..=2)
                .map(|offset| {
                    let index = (floor as isize + offset).clamp(0, from as isize - 1) as usize;
                    (index, cubic(centre - floor - offset as f64))
                })
                .collect()
        })
        .collect()
}

/// Keys' cubic kernel with a = -0.75.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.75;
    let x = x.abs();
    if x <= 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn axis_linear_aligned(from: usize, to: usize) -> Vec<Taps> {
    let step = if to > 1 { (from - 1) as f64 / (to - 1) as f64 } else { 0.0 };
    (0..to)
        .map(|i| {
            let at = i as f64 * step;
            let low = (at.floor() as usize).min(from - 1);
            let high = (low + 1).min(from - 1);
            vec![(low, 1.0 - (at - low as f64)), (high, at - low as f64)]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_row_is_zero_and_column_comes_first() {
        let table = sincos_2d(8, [3, 2], true);
        assert_eq!(table.shape, [1, 7, 8]);
        assert!(table.data[..8].iter().all(|v| *v == 0.0));
        // Token 1 is row 0, column 1: the column half moves, the row half is that of position 0.
        let token = &table.data[16..24];
        assert!((token[0] - 1f32.sin()).abs() < 1e-6 && (token[2] - 1f32.cos()).abs() < 1e-6);
        assert_eq!(&token[4..], &[0.0, 0.0, 1.0, 1.0]);
        let row_first = sincos_2d_row_first(8, [3, 2], true);
        assert_eq!(&row_first.data[16..20], &[0.0, 0.0, 1.0, 1.0]);
    }

    #[test]
    fn time_has_the_first_quarter() {
        let table = sincos_3d(16, [2, 1, 1], false);
        assert_eq!(&table.data[16 + 4..], &table.data[4..16]);
        assert_ne!(&table.data[16..20], &table.data[..4]);
    }

    #[test]
    fn resizing_to_the_same_grid_changes_nothing_and_keeps_extra_rows() {
        let table = sincos_2d(8, [5, 4], true);
        let same = resize_bicubic(&table, 1, [5, 4], [5, 4], Scale::Sizes);
        for (a, b) in table.data.iter().zip(&same.data) {
            assert!((a - b).abs() < 1e-6);
        }
        let line = Array::new([1, 3, 1], vec![0.0, 1.0, 2.0]);
        let wider = resize_linear_aligned(&line, 0, [1, 3], [1, 5]);
        assert_eq!(wider.data, [0.0, 0.5, 1.0, 1.5, 2.0]);
    }
}
