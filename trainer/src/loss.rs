//! Losses. All are means unless said otherwise; scalars have shape `[1]`.

use burn::tensor::activation::log_softmax;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

/// Mean squared error. Rows are averaged before their means are, which keeps a long sum in f32
/// accurate.
pub fn mse<B: Backend, const D: usize>(x: Tensor<B, D>, y: Tensor<B, D>) -> Tensor<B, 1> {
    (x - y).square().mean_dim(D - 1).mean()
}

/// Mean absolute error.
pub fn l1<B: Backend, const D: usize>(x: Tensor<B, D>, y: Tensor<B, D>) -> Tensor<B, 1> {
    (x - y).abs().mean()
}

/// Smooth L1: quadratic within `beta`, linear beyond (`torch.nn.functional.smooth_l1_loss`).
pub fn smooth_l1<B: Backend, const D: usize>(
    x: Tensor<B, D>,
    y: Tensor<B, D>,
    beta: f64,
) -> Tensor<B, 1> {
    let distance = (x - y).abs();
    // With c = min(d, beta), c²/(2 beta) + (d - c) is the quadratic inside and d - beta/2 outside.
    let inside = distance.clone().clamp_max(beta);
    (inside.clone().square() / (2.0 * beta) + distance - inside).mean()
}

/// Squared error averaged over the values of a token, then over the tokens whose `mask` is 1:
/// `pred` and `target` `[rows, tokens, values]`, `mask` `[rows, tokens]`. The MAE family's loss.
pub fn masked_mse<B: Backend>(
    pred: Tensor<B, 3>,
    target: Tensor<B, 3>,
    mask: Tensor<B, 2>,
) -> Tensor<B, 1> {
    let [rows, tokens, _] = pred.dims();
    let error = (pred - target).square().mean_dim(2).reshape([rows, tokens]);
    (error * mask.clone()).sum() / mask.sum()
}

/// Cosine similarity of the vectors along `axis`, which is kept with length 1; the product of the
/// norms is at least `eps²`, as in torch.
pub fn cosine_similarity<B: Backend, const D: usize>(
    x: Tensor<B, D>,
    y: Tensor<B, D>,
    axis: usize,
    eps: f64,
) -> Tensor<B, D> {
    let norm = |v: &Tensor<B, D>| v.clone().square().sum_dim(axis).sqrt().clamp_min(eps);
    let product = (x.clone() * y.clone()).sum_dim(axis);
    product / (norm(&x) * norm(&y))
}

/// Cross-entropy of `logits` `[rows, classes]` with target distributions of the same shape.
pub fn soft_cross_entropy<B: Backend>(logits: Tensor<B, 2>, targets: Tensor<B, 2>) -> Tensor<B, 1> {
    let rows = logits.dims()[0] as f64;
    -(log_softmax(logits, 1) * targets).sum() / rows
}

/// Cross-entropy of `logits` `[rows, classes]` with class numbers, label smoothing `smoothing`
/// (timm's form: `(1 - s)` on the class and `s / classes` everywhere).
pub fn cross_entropy<B: Backend>(
    logits: Tensor<B, 2>,
    labels: &[u32],
    smoothing: f64,
) -> Tensor<B, 1> {
    let [_, classes] = logits.dims();
    let targets = smoothed_one_hot(labels, classes, smoothing);
    let targets = Tensor::from_data(TensorData::new(targets, logits.dims()), &logits.device());
    soft_cross_entropy(logits, targets)
}

/// Smoothed one-hot rows `[labels, classes]`: `s / classes` everywhere and `1 - s` more on the
/// class.
///
/// # Panics
/// When a label is not below `classes`.
pub fn smoothed_one_hot(labels: &[u32], classes: usize, smoothing: f64) -> Vec<f32> {
    let off = smoothing / classes as f64;
    let mut targets = vec![off as f32; labels.len() * classes];
    for (row, label) in targets.chunks_exact_mut(classes).zip(labels) {
        row[*label as usize] = (1.0 - smoothing + off) as f32;
    }
    targets
}

/// Mixup's targets: `lambda` of each row's smoothed one-hot and the rest of its partner's, the
/// partner being the batch in reverse order (timm `mixup_target`).
pub fn mixup_targets(labels: &[u32], classes: usize, smoothing: f64, lambda: f64) -> Vec<f32> {
    let own = smoothed_one_hot(labels, classes, smoothing);
    let reversed: Vec<u32> = labels.iter().rev().copied().collect();
    let partner = smoothed_one_hot(&reversed, classes, smoothing);
    let mix =
        |(a, b): (&f32, &f32)| (f64::from(*a) * lambda + f64::from(*b) * (1.0 - lambda)) as f32;
    own.iter().zip(&partner).map(mix).collect()
}
