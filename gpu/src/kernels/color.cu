// Brightness, contrast and saturation of a normalised float batch, in place. One block a frame: the
// pixel is put back to 0..1, changed, kept in 0..1 and normalised again, up to three times.
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

template <class T>
DEVICE void read_rgb(const ColorParams& p, const T* at, u64 step, float* rgb) {
    for (int c = 0; c < 3; c++) rgb[c] = load(at + c * step) * p.deviation[c] + p.mean[c];
}

// Mean grey of the frame.
template <class T>
DEVICE float mean_gray(const ColorParams& p, const T* frame, u64 step, double* scratch) {
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < p.plane; i += blockDim.x) {
        float rgb[3];
        read_rgb(p, frame + i, step, rgb);
        sum += gray_of(rgb);
    }
    block_sum<1>(&sum, scratch);
    return (float)(sum / p.plane);
}

template <class T>
DEVICE void color_body(const ColorParams& p) {
    __shared__ double scratch[8];
    u32 row = blockIdx.x / p.frames;
    u64 step = (u64)p.frames * p.plane;
    T* frame = (T*)p.data + (u64)row * 3 * step + (u64)(blockIdx.x % p.frames) * p.plane;
    for (int n = 0; n < 3; n++) {
        u32 change = p.rows[row].change[n];
        float factor = p.rows[row].factor[n];
        if (change == 0) continue;
        float gray = change == 2 ? mean_gray(p, frame, step, scratch) : 0.0f;
        for (u32 i = threadIdx.x; i < p.plane; i += blockDim.x) {
            float rgb[3];
            read_rgb(p, frame + i, step, rgb);
            float other = change == 3 ? gray_of(rgb) : gray;
            for (int c = 0; c < 3; c++) {
                float value = rgb[c] * factor + other * (1.0f - factor);
                value = fminf(fmaxf(value, 0.0f), 1.0f);
                store(frame + i + c * step, (value - p.mean[c]) / p.deviation[c]);
            }
        }
        __syncthreads();
    }
}

KERNEL(color_f32, ColorParams) { color_body<float>(p); }
KERNEL(color_bf16, ColorParams) { color_body<Bf16>(p); }
KERNEL(color_f16, ColorParams) { color_body<F16>(p); }
