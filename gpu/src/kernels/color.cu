// Brightness, contrast and saturation of a normalised float batch, in place. One block a frame: each
// pixel is put back to 0..1, changed up to three times in f32, kept in 0..1 every time, normalised
// and written once. A change of contrast first reads the frame for its mean grey, as the changes
// before it leave it.
#include "common.cuh"

struct ColorRow {
    u32 change[3];       // 0 none, 1 brightness, 2 contrast, 3 saturation, in order
    float factor[3];
};

struct ColorParams {
    void* data;          // [rows, 3, frames, height, width]
    const ColorRow* rows;
    u32 frames;
    u32 plane;           // height x width
    float mean[3];
    float deviation[3];
};

DEVICE float gray_of(const float* rgb) {
    return 0.2989f * rgb[0] + 0.587f * rgb[1] + 0.114f * rgb[2];
}

// The pixel `at`, 0..1, after the first `count` changes; `grays` are the means that changes of
// contrast need.
template <class T>
DEVICE void changed(const ColorParams& p, const ColorRow& row, int count, const float* grays,
                    const T* at, u64 step, float* rgb) {
    for (int c = 0; c < 3; c++) rgb[c] = load(at + c * step) * p.deviation[c] + p.mean[c];
    for (int n = 0; n < count; n++) {
        if (row.change[n] == 0) continue;
        float factor = row.factor[n];
        float other = row.change[n] == 3 ? gray_of(rgb) : row.change[n] == 2 ? grays[n] : 0.0f;
        for (int c = 0; c < 3; c++) {
            rgb[c] = fminf(fmaxf(rgb[c] * factor + other * (1.0f - factor), 0.0f), 1.0f);
        }
    }
}

// Mean grey of the frame after the first `count` changes.
template <class T>
DEVICE float mean_gray(const ColorParams& p, const ColorRow& row, int count, const float* grays,
                       const T* frame, u64 step, double* scratch) {
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < p.plane; i += blockDim.x) {
        float rgb[3];
        changed(p, row, count, grays, frame + i, step, rgb);
        sum += gray_of(rgb);
    }
    block_sum<1>(&sum, scratch);
    return (float)(sum / p.plane);
}

template <class T>
DEVICE void color_body(const ColorParams& p) {
    __shared__ double scratch[8];
    u32 n = blockIdx.x / p.frames;
    u64 step = (u64)p.frames * p.plane;
    T* frame = (T*)p.data + (u64)n * 3 * step + (u64)(blockIdx.x % p.frames) * p.plane;
    ColorRow row = p.rows[n];
    float grays[3] = {0.0f, 0.0f, 0.0f};
    for (int i = 0; i < 3; i++) {
        if (row.change[i] == 2) grays[i] = mean_gray(p, row, i, grays, frame, step, scratch);
    }
    // A row without changes stays as it is, to the bit.
    if (row.change[0] + row.change[1] + row.change[2] == 0) return;
    for (u32 i = threadIdx.x; i < p.plane; i += blockDim.x) {
        float rgb[3];
        changed(p, row, 3, grays, frame + i, step, rgb);
        for (int c = 0; c < 3; c++) {
            store(frame + i + c * step, (rgb[c] - p.mean[c]) / p.deviation[c]);
        }
    }
}

KERNEL(color_f32, ColorParams) { color_body<float>(p); }
KERNEL(color_bf16, ColorParams) { color_body<Bf16>(p); }
KERNEL(color_f16, ColorParams) { color_body<F16>(p); }
