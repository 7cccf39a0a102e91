//! The checked layer over libjpeg-turbo's C interface (TurboJPEG 3), for what the safe binding lacks:
//! decoding a region. Nothing above this file sees a pointer.

use std::ffi::CStr;
use std::os::raw::c_int;

use tubelet_core::{Chroma, Rect, Size};
use turbojpeg::raw;

/// A decompressor.
pub(super) struct Turbo(raw::tjhandle);

// SAFETY: a handle has no thread affinity, and there is one owner.
unsafe impl Send for Turbo {}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) width: usize,
    pub(super) height: usize,
    /// Whether the pixels are CMYK or YCCK.
    pub(super) is_cmyk: bool,
    /// Columns and rows of the smallest unit that is coded on its own; `None` where the sampling is
    /// unusual and a region cannot be had.
    pub(super) unit: Option<[u32; 2]>,
    /// Its planes, where they are grey or Y′CbCr of a usual sampling.
    pub(super) chroma: Option<Chroma>,
}

/// How pixels are put out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pixels {
    Rgb,
    Cmyk,
}

impl Pixels {
    /// Bytes of a pixel.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Rgb => 3,
            Self::Cmyk => 4,
        }
    }
}

/// libjpeg-turbo's words, and whether pixels were delivered nevertheless.
#[derive(Clone, Debug)]
pub(super) struct Complaint {
    pub(super) text: String,
    pub(super) is_warning: bool,
}

impl Turbo {
    /// A decompressor that takes a progressive file with more than `max_scans` scans for an attack.
    pub(super) fn new(max_scans: u32) -> Result<Self, Complaint> {
        // SAFETY: no argument is a pointer; null is checked.
        let turbo = Self(unsafe { raw::tj3Init(raw::TJINIT_TJINIT_DECOMPRESS as c_int) });
        if turbo.0.is_null() {
            let text = "libjpeg-turbo cannot be set up".to_owned();
            return Err(Complaint { text, is_warning: false });
        }
        let scans = raw::TJPARAM_TJPARAM_SCANLIMIT as c_int;
        // SAFETY: the handle is valid.
        turbo.check(unsafe { raw::tj3Set(turbo.0, scans, max_scans as c_int) })?;
        Ok(turbo)
    }

    /// Reads the header.
    pub(super) fn header(&mut self, jpeg: &[u8]) -> Result<Header, Complaint> {
        // SAFETY: the handle is valid, the bytes are as long as told.
        self.check(unsafe { raw::tj3DecompressHeader(self.0, jpeg.as_ptr(), jpeg.len() as _) })?;
        let space = self.get(raw::TJPARAM_TJPARAM_COLORSPACE as c_int);
        let cmyk = [raw::TJCS_TJCS_CMYK as c_int, raw::TJCS_TJCS_YCCK as c_int];
        Ok(Header {
            width: self.get(raw::TJPARAM_TJPARAM_JPEGWIDTH as c_int).max(0) as usize,
            height: self.get(raw::TJPARAM_TJPARAM_JPEGHEIGHT as c_int).max(0) as usize,
            is_cmyk: cmyk.contains(&space),
            unit: coding_unit(self.get(raw::TJPARAM_TJPARAM_SUBSAMP as c_int)),
            chroma: self.chroma(space),
        })
    }

    /// Decodes `region` (all of it where absent) of the picture whose header was read last into
    /// `out`; the region's left edge is a multiple of the coding unit.
    pub(super) fn decode(
        &mut self,
        jpeg: &[u8],
        header: &Header,
        region: Option<Rect>,
        pixels: Pixels,
        out: &mut [u8],
    ) -> Result<(), Complaint> {
        let all = Rect { x: 0, y: 0, width: header.width as u32, height: header.height as u32 };
        let shape = region.unwrap_or(all);
        let row = shape.width as usize * pixels.bytes();
        assert_eq!(out.len(), row * shape.height as usize, "{shape:?}");
        let cut = region.map_or([0; 4], |r| [r.x, r.y, r.width, r.height]).map(|v| v as c_int);
        let cut = raw::tjregion { x: cut[0], y: cut[1], w: cut[2], h: cut[3] };
        let format = match pixels {
            Pixels::Rgb => raw::TJPF_TJPF_RGB,
            Pixels::Cmyk => raw::TJPF_TJPF_CMYK,
        };
        // SAFETY: the handle is valid and the bytes are as long as told; libjpeg-turbo refuses
        // regions outside the picture, and `out` has a row of `row` bytes for each row of the region.
        unsafe {
            self.check(raw::tj3SetCroppingRegion(self.0, cut))?;
            let (from, len) = (jpeg.as_ptr(), jpeg.len() as _);
            let to = out.as_mut_ptr();
            self.check(raw::tj3Decompress8(self.0, from, len, to, row as c_int, format as c_int))
        }
    }

    fn chroma(&self, space: c_int) -> Option<Chroma> {
        let spaces = [raw::TJCS_TJCS_YCbCr as c_int, raw::TJCS_TJCS_GRAY as c_int];
        let known = [
            (raw::TJSAMP_TJSAMP_444, Chroma::Full),
            (raw::TJSAMP_TJSAMP_422, Chroma::HalfColumns),
            (raw::TJSAMP_TJSAMP_420, Chroma::HalfBoth),
            (raw::TJSAMP_TJSAMP_GRAY, Chroma::Absent),
        ];
        let sampling = self.get(raw::TJPARAM_TJPARAM_SUBSAMP as c_int);
        let found = known.into_iter().find(|(number, _)| *number as c_int == sampling);
        found.filter(|_| spaces.contains(&space)).map(|(_, chroma)| chroma)
    }

    /// Decodes the planes of the picture whose header was read last, one after the other in `out`;
    /// their sizes are what [`padded`] says.
    pub(super) fn planes(
        &mut self,
        jpeg: &[u8],
        chroma: Chroma,
        size: Size,
        out: &mut Vec<u8>,
    ) -> Result<(), Complaint> {
        let sizes = padded(chroma, size);
        out.resize(sizes.iter().map(|s| s.area()).sum(), 0);
        let (luma, rest) = out.split_at_mut(sizes[0].area());
        let (u, v) = rest.split_at_mut(sizes[1].area());
        let mut planes = [luma.as_mut_ptr(), u.as_mut_ptr(), v.as_mut_ptr()];
        let mut strides = sizes.map(|s| s.width as c_int);
        // SAFETY: the handle is valid and the bytes are as long as told; each plane has the rows and
        // columns that libjpeg-turbo fills, those of the picture rounded up to whole samples of
        // chroma.
        unsafe {
            let all = raw::tjregion { x: 0, y: 0, w: 0, h: 0 };
            self.check(raw::tj3SetCroppingRegion(self.0, all))?;
            let (from, len) = (jpeg.as_ptr(), jpeg.len() as _);
            let (to, strides) = (planes.as_mut_ptr(), strides.as_mut_ptr());
            self.check(raw::tj3DecompressToYUVPlanes8(self.0, from, len, to, strides))
        }
    }

    fn get(&self, parameter: c_int) -> c_int {
        // SAFETY: the handle is valid.
        unsafe { raw::tj3Get(self.0, parameter) }
    }

    fn check(&self, code: c_int) -> Result<(), Complaint> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the handle is valid; the text is terminated and lives until the next call.
        unsafe {
            let text = CStr::from_ptr(raw::tj3GetErrorStr(self.0)).to_string_lossy().into_owned();
            let is_warning = raw::tj3GetErrorCode(self.0) == raw::TJERR_TJERR_WARNING as c_int;
            Err(Complaint { text, is_warning })
        }
    }
}

impl Drop for Turbo {
    fn drop(&mut self) {
        // SAFETY: owned; freed once; null is accepted.
        unsafe { raw::tj3Destroy(self.0) }
    }
}

/// Sizes of the planes of a picture of `size` pixels as libjpeg-turbo delivers them: luma's is
/// rounded up to whole samples of chroma.
pub(super) fn padded(chroma: Chroma, size: Size) -> [Size; 3] {
    let half = chroma.size(size);
    let [columns, rows] = chroma.halved().map(u32::from);
    let luma = Size::new(
        size.width.next_multiple_of(1 << columns),
        size.height.next_multiple_of(1 << rows),
    );
    [luma, half, half]
}

/// Columns and rows of an MCU by TurboJPEG's number of the sampling.
fn coding_unit(sampling: c_int) -> Option<[u32; 2]> {
    let known = [
        (raw::TJSAMP_TJSAMP_444, [8, 8]),
        (raw::TJSAMP_TJSAMP_422, [16, 8]),
        (raw::TJSAMP_TJSAMP_420, [16, 16]),
        (raw::TJSAMP_TJSAMP_GRAY, [8, 8]),
        (raw::TJSAMP_TJSAMP_440, [8, 16]),
        (raw::TJSAMP_TJSAMP_411, [32, 8]),
        (raw::TJSAMP_TJSAMP_441, [8, 32]),
    ];
    known.into_iter().find(|(number, _)| *number as c_int == sampling).map(|(_, unit)| unit)
}
