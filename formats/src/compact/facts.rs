//! Media facts: what many media share is held once.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tubelet_core::{MediaInfo, Size, Spacing};

use super::Column;

/// What media have in common: all facts but the number of frames and the key frames.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Shape {
    size: Size,
    fps: f64,
    codec: String,
    rotation: u16,
    spacing: Option<Spacing>,
}

/// The shape of samples whose facts are not known.
const UNKNOWN: u32 = u32::MAX;

/// Facts of samples in a fixed order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) shapes: Vec<Shape>,
    /// The shape of each sample.
    pub(crate) shape: Column<u32>,
    pub(crate) frames: Column<u32>,
    /// Where the key frames of each sample end.
    pub(crate) ends: Column<u64>,
    /// Key frames: their distances from the one before, seven bits a byte, the lowest first.
    pub(crate) keys: Column<u8>,
    numbers: HashMap<(Size, u64, u16, Option<Spacing>, String), u32>,
}

impl Facts {
    pub(crate) fn len(&self) -> usize {
        self.shape.len()
    }

    pub(crate) fn push(&mut self, info: Option<&MediaInfo>) {
        let number = info.map_or(UNKNOWN, |info| self.number(info));
        self.shape.push(number);
        self.frames.push(info.map_or(0, |info| info.frames));
        let keys = self.keys.to_mut();
        let mut before = 0u32;
        for key in info.map_or(&[][..], |info| &info.keyframes) {
            // Key frames ascend; what does not is told by a distance around the end of the numbers.
            let mut distance = key.wrapping_sub(before);
            before = *key;
            while distance >= 0x80 {
                keys.push(distance as u8 | 0x80);
                distance >>= 7;
            }
            keys.push(distance as u8);
        }
        let end = keys.len() as u64;
        self.ends.push(end);
    }

    /// The facts of sample `n`, where they are known.
    pub(crate) fn get(&self, n: usize) -> Option<Arc<MediaInfo>> {
        let shape = self.shapes.get(self.shape.get(n)? as usize)?;
        let start = if n == 0 { 0 } else { self.ends.get(n - 1)? as usize };
        let keys = self.keys.as_slice().get(start..self.ends.get(n)? as usize)?;
        let mut keyframes = Vec::with_capacity(keys.len());
        let (mut at, mut distance, mut bits) = (0u32, 0u32, 0);
        for byte in keys {
            distance |= u32::from(byte & 0x7f).checked_shl(bits).unwrap_or(0);
            bits += 7;
            if byte & 0x80 == 0 {
                at = at.wrapping_add(distance);
                keyframes.push(at);
                (distance, bits) = (0, 0);
            }
        }
        Some(Arc::new(MediaInfo {
            size: shape.size,
            frames: self.frames.get(n)?,
            fps: shape.fps,
            codec: shape.codec.clone(),
            rotation: shape.rotation,
            keyframes,
            spacing: shape.spacing,
        }))
    }

    /// Adds all facts of `other`.
    pub(crate) fn append(&mut self, other: &Self) {
        let numbers: Vec<u32> = other.shapes.iter().map(|s| self.number_of(s)).collect();
        let number = |n: &u32| numbers.get(*n as usize).copied().unwrap_or(UNKNOWN);
        self.shape.to_mut().extend(other.shape.as_slice().iter().map(number));
        self.frames.to_mut().extend_from_slice(other.frames.as_slice());
        let before = self.keys.len() as u64;
        self.ends.to_mut().extend(other.ends.as_slice().iter().map(|end| before + end));
        self.keys.to_mut().extend_from_slice(other.keys.as_slice());
    }

    /// No more will be added.
    pub(crate) fn shrink(&mut self) {
        self.shape.shrink();
        self.frames.shrink();
        self.ends.shrink();
        self.keys.shrink();
        self.numbers = HashMap::new();
    }

    fn number(&mut self, info: &MediaInfo) -> u32 {
        self.number_of(&Shape {
            size: info.size,
            fps: info.fps,
            codec: info.codec.clone(),
            rotation: info.rotation,
            spacing: info.spacing,
        })
    }

    fn number_of(&mut self, shape: &Shape) -> u32 {
        let Shape { size, fps, codec, rotation, spacing } = shape;
        let key = (*size, fps.to_bits(), *rotation, *spacing, codec.clone());
        *self.numbers.entry(key).or_insert_with(|| {
            self.shapes.push(shape.clone());
            (self.shapes.len() - 1) as u32
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_what_was_added() {
        let info = |n: u32, keyframes: &[u32]| MediaInfo {
            frames: n * 1000,
            fps: 30_000.0 / 1001.0,
            keyframes: keyframes.to_vec(),
            spacing: (n % 2 == 0).then_some(Spacing { stride: 4, gop: 32 }),
            ..MediaInfo::picture(Size::new(340, 256 + n % 2), "h264")
        };
        let all = [
            Some(info(1, &[0, 32, 64, 200, 20_000, u32::MAX])),
            None,
            Some(info(2, &[])),
            Some(info(3, &[5, 3, 9])),
            Some(info(5, &[0])),
        ];
        let (mut one, mut two) = (Facts::default(), Facts::default());
        all[..2].iter().for_each(|i| one.push(i.as_ref()));
        all[2..].iter().for_each(|i| two.push(i.as_ref()));
        one.append(&two);
        one.shrink();
        for (n, wanted) in all.iter().enumerate() {
            assert_eq!(one.get(n).as_deref(), wanted.as_ref(), "{n}");
        }
        assert_eq!((one.len(), one.shapes.len()), (5, 2));
        assert_eq!(one.get(5), None);
    }
}
