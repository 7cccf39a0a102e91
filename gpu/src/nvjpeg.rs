//! nvJPEG: found and loaded at run time; batches of JPEG files to planes on the device.
//!
//! Files go to the device's JPEG engines where it has some and they support the file, of the wanted
//! region alone or, where they refuse that, whole; else to its multiprocessors, whole. What neither decodes comes back as refused, with
//! the reason, one file at a time: it is the caller's to decode elsewhere and to count.

mod library;
mod service;

use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Arc;

use cudarc::driver::CudaStream;
use tubelet_augment::resample::planes::Held;
use tubelet_core::{Chroma, Rect, Size, Yuv};

use self::library::{Backend, Engine, Image, Library};
use crate::context::Gpu;
use crate::error::GpuError;
use crate::kernels::{Address, PlaneLayout};
use crate::loading;
use crate::memory::{DeviceBuffer, DeviceMemory};
pub use service::{JpegService, MAX_BATCH};

/// Environment variable: a folder with nvJPEG's library, before all other places.
pub const NVJPEG_VARIABLE: &str = "TUBELET_NVJPEG";

/// Names of the library, newest first.
const NAMES: [&str; 4] = ["libnvjpeg.so.13", "libnvjpeg.so.12", "libnvjpeg.so.11", "libnvjpeg.so"];
/// Regions begin and end on coding units of any JPEG with chroma that is at most halved.
const UNIT: u32 = 16;
/// Pixels beside a region that chroma's upsampling looks at.
const MARGIN: u32 = 2;
/// Planes and their rows begin on multiples of so many bytes.
const ALIGN: usize = 256;

/// A file to be decoded.
#[derive(Clone, Copy, Debug)]
pub struct JpegRequest<'a> {
    /// The whole file.
    pub encoded: &'a [u8],
    /// Size that its header says.
    pub size: Size,
    /// What its planes are.
    pub yuv: Yuv,
    /// The region that will be looked at; all of it where absent.
    pub region: Option<Rect>,
}

/// Planes of a picture on the device.
#[derive(Clone, Debug)]
pub struct JpegPlanes {
    /// What is held.
    pub held: Held,
    /// How it lies in memory.
    pub layout: PlaneLayout,
    /// First samples of luma, U and V.
    pub planes: [Address; 3],
    _memory: Arc<DeviceBuffer>,
}

/// Decodes JPEG files on one device, in the order of one stream.
pub struct JpegDecoder {
    stream: Arc<CudaStream>,
    memory: Arc<DeviceMemory>,
    hardware: Option<Engine>,
    general: Engine,
}

impl JpegDecoder {
    /// Finds the library and sets it up on `gpu`: in the folder `TUBELET_NVJPEG` names, else in the
    /// toolkit that `CUDA_PATH` or `CUDA_HOME` names or in `/usr/local/cuda`, else where the system's
    /// loader looks. Work is queued on `stream`.
    ///
    /// # Errors
    /// When the library is nowhere, or does not start.
    pub fn new(gpu: &Gpu, stream: &Arc<CudaStream>) -> Result<Self, GpuError> {
        let library = Arc::new(find()?);
        let stream = Arc::clone(stream);
        gpu.context().bind_to_thread().map_err(GpuError::driver("enter the context"))?;
        let engine = |backend| Engine::new(&library, gpu.context(), backend);
        let hardware = engine(Backend::Hardware).ok();
        let general = engine(Backend::Hybrid).or_else(|_| engine(Backend::Default))?;
        let memory = DeviceMemory::new(&stream)?;
        Ok(Self { stream, memory, hardware, general })
    }

    /// Whether the device has JPEG engines.
    pub fn has_engines(&self) -> bool {
        self.hardware.is_some()
    }

    /// The stream that work is queued on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Decodes all of `requests` and waits until they are done; for each its planes, or why the
    /// device does not decode it.
    ///
    /// # Errors
    /// When the device fails or is out of memory.
    pub fn decode(
        &mut self,
        requests: &[JpegRequest<'_>],
    ) -> Result<Vec<Result<JpegPlanes, GpuError>>, GpuError> {
        let context = self.stream.context();
        context.bind_to_thread().map_err(GpuError::driver("enter the context"))?;
        let answer = "a header that is not as expected";
        let refusal = || Err(GpuError::Nvjpeg { doing: "take the picture", answer });
        let mut done: Vec<_> = requests.iter().map(|_| refusal()).collect();
        let accepted = (0..requests.len()).filter(|n| self.accepts(&requests[*n])).collect();
        let left = self.by_engines(requests, accepted, &mut done)?;
        self.by_multiprocessors(requests, left, &mut done)?;
        Ok(done)
    }

    /// Whether the library reads the header as the caller did: planes are made for that.
    fn accepts(&self, request: &JpegRequest<'_>) -> bool {
        let (components, subsampling) = match request.yuv.chroma {
            Chroma::Full => (3, 0),
            Chroma::HalfColumns => (3, 1),
            Chroma::HalfBoth => (3, 2),
            Chroma::Absent => (1, 6),
        };
        let Some(info) = self.general.info(request.encoded) else { return false };
        (info.components, info.subsampling) == (components, subsampling)
            && u32::try_from(info.width) == Ok(request.size.width)
            && u32::try_from(info.height) == Ok(request.size.height)
    }

    /// Decodes with the device's engines what they support; says what is left.
    fn by_engines(
        &mut self,
        requests: &[JpegRequest<'_>],
        among: Vec<usize>,
        done: &mut [Result<JpegPlanes, GpuError>],
    ) -> Result<Vec<usize>, GpuError> {
        let Some(engine) = &mut self.hardware else { return Ok(among) };
        let (mut mine, mut left) = (Vec::new(), Vec::new());
        for n in among {
            let request = &requests[n];
            let whole = Rect::full(request.size);
            let region = region_of(request);
            let mut supports = |rect: Rect| {
                let Rect { x, y, width, height } = rect;
                let region = (rect != whole).then(|| [x, y, width, height].map(|v| v as i32));
                engine.supports(mine.len(), request.encoded, region)
            };
            // Who refuses the region may take the whole picture.
            let instead = (region != whole).then_some(whole);
            match [Some(region), instead].into_iter().flatten().find(|rect| supports(*rect)) {
                Some(rect) => mine.push((n, held(request, rect))),
                None => left.push(n),
            }
        }
        if mine.is_empty() {
            return Ok(left);
        }
        let planes = allocate(&self.memory, &mine)?;
        let pictures: Vec<&[u8]> = mine.iter().map(|(n, _)| requests[*n].encoded).collect();
        let mut images: Vec<Image> = planes.iter().map(JpegPlanes::image).collect();
        let stream = self.stream.cu_stream().cast();
        // SAFETY: the planes are as large as the regions; the pictures are borrowed until the
        // stream has been waited for.
        let queued = unsafe { engine.decode_batch(&pictures, &mut images, true, stream) };
        wait(&self.stream)?;
        match queued {
            Ok(()) => mine.iter().zip(planes).for_each(|((n, _), planes)| done[*n] = Ok(planes)),
            Err(error) => {
                tracing::debug!("the JPEG engines gave a batch back: {error}");
                left.extend(mine.iter().map(|(n, _)| n));
            }
        }
        Ok(left)
    }

    /// Decodes the pictures `among`, together; where that fails, one by one, so that one bad file
    /// does not cost the others.
    fn by_multiprocessors(
        &mut self,
        requests: &[JpegRequest<'_>],
        among: Vec<usize>,
        done: &mut [Result<JpegPlanes, GpuError>],
    ) -> Result<(), GpuError> {
        let whole = |n: usize| (n, held(&requests[n], Rect::full(requests[n].size)));
        let mine: Vec<_> = among.into_iter().map(whole).collect();
        if mine.is_empty() {
            return Ok(());
        }
        let planes = allocate(&self.memory, &mine)?;
        let pictures: Vec<&[u8]> = mine.iter().map(|(n, _)| requests[*n].encoded).collect();
        let mut images: Vec<Image> = planes.iter().map(JpegPlanes::image).collect();
        let stream = self.stream.cu_stream().cast();
        // SAFETY: the planes are as large as the pictures, which are borrowed until the stream has
        // been waited for.
        let queued = unsafe { self.general.decode_batch(&pictures, &mut images, false, stream) };
        wait(&self.stream)?;
        for (((n, _), planes), image) in mine.iter().zip(planes).zip(&mut images) {
            let alone = match queued {
                Ok(()) => Ok(()),
                // SAFETY: as above.
                Err(_) => unsafe { self.general.decode(requests[*n].encoded, image, stream) },
            };
            if queued.is_err() {
                wait(&self.stream)?;
            }
            done[*n] = alone.map(|()| planes);
        }
        Ok(())
    }
}

impl JpegPlanes {
    fn image(&self) -> Image {
        let pitch =
            |n: usize| if n == 0 { self.layout.luma_pitch } else { self.layout.chroma_pitch };
        let mut image = Image { channel: [ptr::null_mut(); 4], pitch: [0; 4] };
        for (n, plane) in self.planes.iter().enumerate() {
            image.channel[n] = plane.0 as *mut u8;
            image.pitch[n] = pitch(n) as usize;
        }
        image
    }
}

fn wait(stream: &CudaStream) -> Result<(), GpuError> {
    stream.synchronize().map_err(GpuError::driver("wait for decoded pictures"))
}

/// The region to decode: all that the wanted one is made of, in whole coding units.
fn region_of(request: &JpegRequest<'_>) -> Rect {
    let Size { width, height } = request.size;
    let wanted = request.region.filter(|r| r.fits(request.size) && r.size().area() > 0);
    let Some(wanted) = wanted else { return Rect::full(request.size) };
    let axis = |from: u32, length: u32, whole: u32| {
        let first = from.saturating_sub(MARGIN) / UNIT * UNIT;
        let end = (from + length + MARGIN).next_multiple_of(UNIT).min(whole);
        (first, end - first)
    };
    let (x, width) = axis(wanted.x, wanted.width, width);
    let (y, height) = axis(wanted.y, wanted.height, height);
    Rect { x, y, width, height }
}

/// What is held of a picture of which `region` is decoded.
fn held(request: &JpegRequest<'_>, region: Rect) -> Held {
    let JpegRequest { size, yuv, .. } = *request;
    let [columns, rows] = yuv.chroma.halved();
    let axis = |from: u32, length: u32, halved: bool| {
        if halved { (from / 2, length.div_ceil(2)) } else { (from, length) }
    };
    let (x, width) = axis(region.x, region.width, columns);
    let (y, height) = axis(region.y, region.height, rows);
    Held { size, region, chroma: Rect { x, y, width, height }, yuv }
}

/// Room for the planes of each picture, all in one piece of memory. Grey has chroma too, in case
/// that the library writes it.
fn allocate(
    memory: &Arc<DeviceMemory>,
    pictures: &[(usize, Held)],
) -> Result<Vec<JpegPlanes>, GpuError> {
    let pitch = |width: u32| (width as usize).next_multiple_of(ALIGN);
    let bytes = |held: &Held| {
        let of = |rect: Rect| pitch(rect.width) * rect.height as usize;
        (of(held.region), of(held.chroma))
    };
    let total: usize = pictures.iter().map(|(_, held)| bytes(held)).map(|(l, c)| l + 2 * c).sum();
    let memory = Arc::new(DeviceBuffer::new(memory, total)?);
    let mut at = memory.address().0;
    let place = |(_, held): &(usize, Held)| {
        let (luma, chroma) = bytes(held);
        let first = [at, at + luma as u64, at + (luma + chroma) as u64];
        at += (luma + 2 * chroma) as u64;
        let layout = PlaneLayout {
            luma_pitch: pitch(held.region.width) as u32,
            chroma_pitch: pitch(held.chroma.width) as u32,
            interleaved: false,
        };
        let planes = first.map(Address);
        JpegPlanes { held: *held, layout, planes, _memory: Arc::clone(&memory) }
    };
    Ok(pictures.iter().map(place).collect())
}

/// The library, wherever it is.
fn find() -> Result<Library, GpuError> {
    if let Some(folder) = std::env::var_os(NVJPEG_VARIABLE) {
        return in_folder(Path::new(&folder));
    }
    loading::find(&NAMES, in_folder, Library::open).map_err(|tried| {
        GpuError::NoNvjpeg(format!(
            "not in {tried}; set {NVJPEG_VARIABLE} to the folder of libnvjpeg.so.*"
        ))
    })
}

/// The library in `folder`; the newest where there are several.
fn in_folder(folder: &Path) -> Result<Library, GpuError> {
    let path: Option<PathBuf> = NAMES.iter().map(|name| folder.join(name)).find(|p| p.is_file());
    let path = path.ok_or_else(|| {
        GpuError::NoNvjpeg(format!("no {} in `{}`", NAMES.join(", "), folder.display()))
    })?;
    Library::open(&path)
}

#[cfg(test)]
mod tests {
    use tubelet_core::{Upsampling, YuvMatrix};

    use super::*;

    #[test]
    fn regions_are_whole_units_with_a_margin_and_hold_what_is_wanted() {
        for chroma in [Chroma::Absent, Chroma::Full, Chroma::HalfColumns, Chroma::HalfBoth] {
            let yuv = Yuv { chroma, upsampling: Upsampling::Triangle, matrix: YuvMatrix::JPEG };
            let size = Size::new(101, 67);
            for (x, y, width, height) in [(0, 0, 101, 67), (33, 17, 30, 14), (96, 64, 5, 3)] {
                let wanted = Rect { x, y, width, height };
                let request = JpegRequest { encoded: &[], size, yuv, region: Some(wanted) };
                let region = region_of(&request);
                assert!(region.x % UNIT == 0 && region.y % UNIT == 0 && region.fits(size));
                assert!(held(&request, region).suffices(wanted), "{chroma:?} {wanted:?}");
            }
            let outside = Rect { x: 90, y: 0, width: 20, height: 5 };
            let request = JpegRequest { encoded: &[], size, yuv, region: Some(outside) };
            assert_eq!(region_of(&request), Rect::full(size));
        }
    }

    #[test]
    fn a_folder_without_the_library_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = in_folder(folder.path()).err().expect("nothing there").to_string();
        assert!(error.contains(&folder.path().display().to_string()), "{error}");
        std::fs::write(folder.path().join("libnvjpeg.so.12"), b"no library").expect("writes");
        let error = in_folder(folder.path()).err().expect("no library").to_string();
        assert!(error.contains("libnvjpeg.so.12"), "{error}");
    }

    /// Where the library is installed, it has every call.
    #[test]
    fn an_installed_library_has_every_call() {
        match find() {
            Ok(_) => {}
            Err(reason) => {
                assert!(std::env::var_os(NVJPEG_VARIABLE).is_none(), "{reason}");
                eprintln!("nvJPEG: skipped: {reason}");
            }
        }
    }
}
