//! Where one kind of media is decoded: figures in, decision out.

/// Pixels of the two paths must agree so well, in decibels over all bytes of a row.
pub(crate) const MIN_PSNR: f64 = 45.0;

/// What was measured of one kind of media.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Figures {
    /// Samples a second on the processor, by all workers together.
    pub(crate) cpu: f64,
    /// Likewise with the GPU.
    pub(crate) gpu: f64,
    /// Agreement of one sample's pixels; infinite where they are equal.
    pub(crate) psnr: f64,
}

/// Where to decode, and why.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// On the GPU: it is faster, and the pixels agree.
    Gpu(Figures),
    /// On the processor: it is as fast.
    Slower(Figures),
    /// On the processor: the GPU's pixels are too different.
    Differs(Figures),
    /// On the processor: the GPU cannot, for this reason.
    Unable(String),
}

impl Decision {
    /// Takes the GPU only if it is faster and its pixels agree; figures that are no numbers speak
    /// against it.
    pub(crate) fn of(figures: Figures) -> Self {
        let agrees = figures.psnr >= MIN_PSNR;
        let faster = figures.gpu > figures.cpu;
        match (agrees, faster) {
            (false, _) => Self::Differs(figures),
            (true, false) => Self::Slower(figures),
            (true, true) => Self::Gpu(figures),
        }
    }

    /// Whether it is the GPU.
    pub(crate) fn is_gpu(&self) -> bool {
        matches!(self, Self::Gpu(_))
    }

    /// The line that tells it.
    pub(crate) fn line(&self, media: &str) -> String {
        let numbers = |f: &Figures| {
            let agreement = if f.psnr == f64::INFINITY {
                "equal pixels".to_owned()
            } else {
                format!("PSNR {:.1} dB", f.psnr)
            };
            format!("{:.1} samples/s on the CPU, {:.1} on the GPU, {agreement}", f.cpu, f.gpu)
        };
        match self {
            Self::Gpu(f) => format!("decode: {media} on the GPU ({})", numbers(f)),
            Self::Slower(f) => {
                format!("decode: {media} on the CPU ({})", numbers(f))
            }
            Self::Differs(f) => {
                let least = MIN_PSNR;
                format!("decode: {media} on the CPU ({}; {least} dB are needed)", numbers(f))
            }
            Self::Unable(reason) => format!("decode: {media} on the CPU ({reason})"),
        }
    }
}

/// Peak signal-to-noise ratio of two byte strings in decibels: infinite where they are equal, NaN
/// where they cannot be compared.
pub(crate) fn psnr(a: &[u8], b: &[u8]) -> f64 {
    if a.len() != b.len() || a.is_empty() {
        return f64::NAN;
    }
    let square = |(a, b): (&u8, &u8)| u64::from(a.abs_diff(*b)).pow(2);
    let sum: u64 = a.iter().zip(b).map(square).sum();
    10.0 * (255.0 * 255.0 * a.len() as f64 / sum as f64).log10()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(cpu: f64, gpu: f64, psnr: f64) -> Decision {
        Decision::of(Figures { cpu, gpu, psnr })
    }

    #[test]
    fn the_gpu_must_be_faster_and_agree() {
        assert!(decide(100.0, 101.0, 45.0).is_gpu());
        assert!(decide(100.0, 101.0, f64::INFINITY).is_gpu());
        assert!(matches!(decide(100.0, 100.0, 60.0), Decision::Slower(_)));
        assert!(matches!(decide(100.0, 900.0, 44.9), Decision::Differs(_)));
        assert!(matches!(decide(100.0, 50.0, 30.0), Decision::Differs(_)));
        assert!(!decide(f64::NAN, 100.0, 60.0).is_gpu());
        assert!(!decide(100.0, f64::NAN, 60.0).is_gpu());
        assert!(!decide(100.0, 200.0, f64::NAN).is_gpu());
        assert!(!Decision::Unable("no".to_owned()).is_gpu());
    }

    #[test]
    fn lines_have_the_figures() {
        let line = decide(100.0, 250.0, 51.24).line("JPEG");
        let want =
            "decode: JPEG on the GPU (100.0 samples/s on the CPU, 250.0 on the GPU, PSNR 51.2 dB)";
        assert_eq!(line, want);
        assert!(decide(1.0, 2.0, f64::INFINITY).line("video").contains("equal pixels"));
        assert!(decide(1.0, 2.0, 40.0).line("video").contains("45 dB are needed"));
        let line = Decision::Unable("no nvJPEG".to_owned()).line("JPEG");
        assert_eq!(line, "decode: JPEG on the CPU (no nvJPEG)");
    }

    #[test]
    fn psnr_is_that_of_bytes() {
        assert_eq!(psnr(&[1, 2], &[1, 2]), f64::INFINITY);
        assert!((psnr(&[10, 20], &[11, 19]) - 48.1308).abs() < 1e-4);
        assert!((psnr(&[0], &[255])).abs() < 1e-9);
        assert!(psnr(&[], &[]).is_nan() && psnr(&[1], &[1, 2]).is_nan());
    }
}
