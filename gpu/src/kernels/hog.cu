// Histograms of oriented gradients as MaskFeat defines them. One block a token, all its cells.
//
// Everything is added in the host's order: the taps of a Sobel filter in row-major order, a cell's
// magnitudes row by row. The orientation is decided in f32 where it is clear and, within
// `EDGE` of an edge between bins, by atan2 in f64 rounded once, as on the host: bins are equal
// everywhere, at reflected borders too.
#include "common.cuh"

struct HogParams {
    const u8* pixels;      // [rows, frames, height, width, 3], or null
    const float* table;    // [3, 256], for `pixels`
    const float* floats;   // [rows, 3, frames, height, width], where `pixels` is null
    const float* window;   // [side, side], or null
    const u32* tokens;     // [rows, max_tokens]
    const u32* counts;     // [rows]
    float* out;            // [rows, max_tokens, 3 * bins * cells_h * cells_w]
    u32 max_tokens;
    u32 frames;
    u32 height;
    u32 width;
    u32 columns;           // tokens in a row of tokens
    u32 plane_tokens;      // tokens of a time slot
    u32 patch_t;
    u32 cells_h;           // cells along a side of a token
    u32 cells_w;
    u32 cell;              // side of a cell in pixels
    u32 bins;
    u32 side;              // of the window
    u32 normalise;         // whether a cell's histogram is divided by its L2 norm
    u32 unused;
};

// Distance to an edge between bins below which f32 does not decide.
#define EDGE 1e-3f

DEVICE u32 reflect(int at, u32 length) {
    if (at < 0) return (u32)-at;
    if ((u32)at >= length) return 2 * length - 2 - (u32)at;
    return (u32)at;
}

// Floor of `phase` modulo `bins`.
DEVICE u32 bin_of(float phase, u32 bins) {
    int bin = (int)floorf(phase) % (int)bins;
    return (u32)(bin < 0 ? bin + (int)bins : bin);
}

DEVICE u32 orientation_bin(float gx, float gy, u32 bins) {
    const float pi = 3.14159265358979323846f;
    float phase = atan2f(gx, gy) / pi * (float)bins;
    float edge = fabsf(phase - rintf(phase));
    if (edge < EDGE) phase = (float)atan2((double)gx, (double)gy) / pi * (float)bins;
    return bin_of(phase, bins);
}

// Reads the token's pixels and one more on each side: [3, high + 2, wide + 2].
DEVICE void read_tile(const HogParams& p, u32 row, u32 frame, u32 top, u32 left, float* tile) {
    u32 high = p.cells_h * p.cell + 2, wide = p.cells_w * p.cell + 2;
    Source source = {p.pixels, p.floats, p.frames, p.height * p.width};
    for (u32 i = threadIdx.x; i < 3 * high * wide; i += blockDim.x) {
        // The channel fastest: neighbouring threads read neighbouring bytes.
        u32 c = i % 3, x = i / 3 % wide, y = i / 3 / wide;
        u32 from_y = reflect((int)(top + y) - 1, p.height);
        u32 from_x = reflect((int)(left + x) - 1, p.width);
        u32 at = from_y * p.width + from_x;
        tile[(c * high + y) * wide + x] = pixel_at(source, p.table, row, frame, c, at);
    }
}

// Magnitude and bin of every pixel of the token: [3, high, wide].
DEVICE void gradients(const HogParams& p, u32 top, u32 left, const float* tile, float* magnitudes,
                      u8* bins) {
    u32 high = p.cells_h * p.cell, wide = p.cells_w * p.cell;
    for (u32 i = threadIdx.x; i < 3 * high * wide; i += blockDim.x) {
        u32 x = i % wide, y = i / wide % high, c = i / wide / high;
        const float* a = tile + (c * (high + 2) + y) * (wide + 2) + x;
        const float* b = a + wide + 2;
        const float* d = b + wide + 2;
        float gx = a[0] - a[2] + 2.0f * b[0] - 2.0f * b[2] + d[0] - d[2];
        float gy = a[0] + 2.0f * a[1] + a[2] - d[0] - 2.0f * d[1] - d[2];
        float magnitude = sqrtf(gx * gx + gy * gy);
        if (p.window) magnitude *= p.window[(top + y) % p.side * p.side + (left + x) % p.side];
        magnitudes[i] = magnitude;
        // Nothing is added for a flat neighbourhood, whatever its bin.
        bins[i] = magnitude > 0.0f ? (u8)orientation_bin(gx, gy, p.bins) : 0;
    }
}

// The magnitudes of one bin of one cell, added row by row.
DEVICE float cell_sum(const HogParams& p, u32 c, u32 bin, u32 cell, const float* magnitudes,
                      const u8* bins) {
    u32 high = p.cells_h * p.cell, wide = p.cells_w * p.cell;
    u32 top = cell / p.cells_w * p.cell, left = cell % p.cells_w * p.cell;
    float sum = 0.0f;
    for (u32 y = 0; y < p.cell; y++) {
        u32 start = (c * high + top + y) * wide + left;
        for (u32 x = 0; x < p.cell; x++) {
            if (bins[start + x] == bin) sum += magnitudes[start + x];
        }
    }
    return sum;
}

// L2 norm of a cell's histogram of one channel, at least 1e-12. `first` is its bin 0.
DEVICE float cell_norm(const float* first, u32 bins, u32 cells) {
    float squares = 0.0f;
    for (u32 b = 0; b < bins; b++) squares += first[b * cells] * first[b * cells];
    return fmaxf(sqrtf(squares), 1e-12f);
}

KERNEL(hog, HogParams) {
    DYNAMIC_SHARED(shared);
    u32 high = p.cells_h * p.cell, wide = p.cells_w * p.cell, cells = p.cells_h * p.cells_w;
    u32 dim = 3 * p.bins * cells;
    float* tile = (float*)shared;
    float* magnitudes = tile + 3 * (high + 2) * (wide + 2);
    float* histogram = magnitudes + 3 * high * wide;
    u8* bins = (u8*)(histogram + dim);
    float* out = p.out + (u64)blockIdx.x * dim;
    u32 row = blockIdx.x / p.max_tokens;
    if (blockIdx.x % p.max_tokens >= p.counts[row]) {
        for (u32 i = threadIdx.x; i < dim; i += blockDim.x) out[i] = 0.0f;
        return;
    }
    u32 token = p.tokens[blockIdx.x], at = token % p.plane_tokens;
    u32 top = at / p.columns * high, left = at % p.columns * wide;
    read_tile(p, row, token / p.plane_tokens * p.patch_t, top, left, tile);
    __syncthreads();
    gradients(p, top, left, tile, magnitudes, bins);
    __syncthreads();
    for (u32 i = threadIdx.x; i < dim; i += blockDim.x) {
        u32 cell = i % cells, bin = i / cells % p.bins, c = i / cells / p.bins;
        histogram[i] = cell_sum(p, c, bin, cell, magnitudes, bins);
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < dim; i += blockDim.x) {
        u32 cell = i % cells, c = i / cells / p.bins;
        float norm = p.normalise ? cell_norm(histogram + c * p.bins * cells + cell, p.bins, cells) : 1.0f;
        out[i] = histogram[i] / norm;
    }
}
