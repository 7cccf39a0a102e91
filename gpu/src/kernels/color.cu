// Brightness, contrast, saturation and hue of a normalised float batch, in place. One block a frame: each
// pixel is put back to 0..1, changed up to four times in f32, kept in 0..1 every time, normalised
// and written once. A change of contrast first reads the frame for its mean grey, as the changes
// before it leave it.
#include "common.cuh"

#define CHANGES 4

struct ColorRow {
    u32 change[CHANGES]; // 0 none, 1 brightness, 2 contrast, 3 saturation, 4 hue, in order
    float factor[CHANGES];
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

// Turns the hue by `turn` of the circle, by way of hue, saturation and value.
DEVICE void turn_hue(float turn, float* rgb) {
    float most = fmaxf(rgb[0], fmaxf(rgb[1], rgb[2]));
    float range = most - fminf(rgb[0], fminf(rgb[1], rgb[2]));
    if (range == 0.0f) return;
    float r = (most - rgb[0]) / range, g = (most - rgb[1]) / range, b = (most - rgb[2]) / range;
    float sector = rgb[0] == most ? b - g : rgb[1] == most ? 2.0f + r - b : 4.0f + g - r;
    float hue = sector / 6.0f + 1.0f + turn;
    hue = (hue - floorf(hue)) * 6.0f;
    float whole = floorf(hue), rest = hue - whole;
    float p = most - range, q = most - range * rest, t = most - range * (1.0f - rest);
    int at = (int)whole % 6;
    rgb[0] = at == 0 || at == 5 ? most : at == 1 ? q : at == 4 ? t : p;
    rgb[1] = at == 1 || at == 2 ? most : at == 3 ? q : at == 0 ? t : p;
    rgb[2] = at == 3 || at == 4 ? most : at == 5 ? q : at == 2 ? t : p;
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
        if (row.change[n] == 4) {
            turn_hue(factor, rgb);
            continue;
        }
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
    float grays[CHANGES] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int i = 0; i < CHANGES; i++) {
        if (row.change[i] == 2) grays[i] = mean_gray(p, row, i, grays, frame, step, scratch);
    }
    // A row without changes stays as it is, to the bit.
    if (row.change[0] + row.change[1] + row.change[2] + row.change[3] == 0) return;
    for (u32 i = threadIdx.x; i < p.plane; i += blockDim.x) {
        float rgb[3];
        changed(p, row, CHANGES, grays, frame + i, step, rgb);
        for (int c = 0; c < 3; c++) {
            store(frame + i + c * step, (rgb[c] - p.mean[c]) / p.deviation[c]);
        }
    }
}

KERNEL(color_f32, ColorParams) { color_body<float>(p); }
KERNEL(color_bf16, ColorParams) { color_body<Bf16>(p); }
KERNEL(color_f16, ColorParams) { color_body<F16>(p); }
