//! Turning the hue, as torchvision does on a Pillow picture: RGB → HSV in 8 bits, the hue added to
//! modulo 256, and back (`libImaging/Convert.c`).

/// Turns the hue by `turn` of the circle.
pub(crate) fn turn(pixels: &mut [u8], turn: f64) {
    // numpy truncates to an integer and wraps it to 8 bits.
    let add = (turn * 255.0) as i32 as u8;
    for pixel in pixels.chunks_exact_mut(3) {
        let [h, s, v] = to_hsv([pixel[0], pixel[1], pixel[2]]);
        pixel.copy_from_slice(&to_rgb([h.wrapping_add(add), s, v]));
    }
}

fn to_hsv([r, g, b]: [u8; 3]) -> [u8; 3] {
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    if most == least {
        return [0, 0, most];
    }
    let range = f32::from(most - least);
    let saturation = range / f32::from(most);
    let [rc, gc, bc] = [r, g, b].map(|v| f32::from(most - v) / range);
    let sector = if r == most {
        bc - gc
    } else if g == most {
        (2.0 + f64::from(rc) - f64::from(bc)) as f32
    } else {
        (4.0 + f64::from(gc) - f64::from(rc)) as f32
    };
    let hue = ((f64::from(sector) / 6.0 + 1.0) % 1.0) as f32;
    [(f64::from(hue) * 255.0) as u8, (f64::from(saturation) * 255.0) as u8, most]
}

fn to_rgb([h, s, v]: [u8; 3]) -> [u8; 3] {
    if s == 0 {
        return [v; 3];
    }
    let sector = f64::from(f32::from(h) * 6.0) / 255.0;
    let whole = sector.floor();
    let rest = f64::from((sector - whole) as f32);
    let share = f64::from((f64::from(s) / 255.0) as f32);
    let level = |x: f64| (f64::from(v) * x).round() as u8;
    let p = level(1.0 - share);
    let q = level(1.0 - share * rest);
    let t = level(1.0 - share * (1.0 - rest));
    match whole as u32 % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primaries_turn_into_each_other_and_greys_stay() {
        assert_eq!(to_hsv([255, 0, 0]), [0, 255, 255]);
        assert_eq!(to_hsv([0, 255, 0]), [85, 255, 255]);
        assert_eq!(to_hsv([0, 0, 255]), [170, 255, 255]);
        let mut pixels = [255, 0, 0, 7, 7, 7];
        turn(&mut pixels, 1.0 / 3.0);
        assert_eq!(pixels, [0, 255, 0, 7, 7, 7]);
    }
}
