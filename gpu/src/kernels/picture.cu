// scikit-image's picture of HOG. First every cell of every frame, four cells a block; then the listed
// tokens, one block each, drawn from the cells. Sums are in the host's order.
#include "common.cuh"

#define BINS 9
#define CELL 8

struct CellsParams {
    const u8* pixels;      // [rows, frames, height, width, 3], or null
    const float* floats;   // [rows, 3, frames, height, width], where `pixels` is null
    const float* table;    // [3, 256], for `pixels`
    float* out;            // [rows, frames, cells, BINS]
    u32 frames;
    u32 height;
    u32 width;
    u32 columns;           // cells along a frame
    u32 cells;             // cells of a frame
    u32 blocks;            // blocks a frame
};

// Difference of two pixels, 0 across a border.
DEVICE float difference(const Source& s, const float* table, u32 row, u32 frame, u32 c, bool inner,
                        u32 at, u32 step) {
    if (!inner) return 0.0f;
    return pixel_at(s, table, row, frame, c, at + step) - pixel_at(s, table, row, frame, c, at - step);
}

// Magnitude and bin of the channel with the largest gradient.
DEVICE u8 gradient(const CellsParams& p, u32 row, u32 frame, u32 y, u32 x, float* magnitude) {
    Source source = {p.pixels, p.floats, p.frames, p.height * p.width};
    bool inner_y = y > 0 && y + 1 < p.height, inner_x = x > 0 && x + 1 < p.width;
    u32 at = y * p.width + x;
    float down = 0.0f, right = 0.0f;
    *magnitude = -1.0f;
    for (u32 c = 0; c < 3; c++) {
        float d = difference(source, p.table, row, frame, c, inner_y, at, p.width);
        float r = difference(source, p.table, row, frame, c, inner_x, at, 1);
        float length = (float)sqrt((double)d * (double)d + (double)r * (double)r);
        if (length > *magnitude) {
            *magnitude = length;
            down = d;
            right = r;
        }
    }
    float degrees = (float)atan2((double)down, (double)right) * 57.29577951308232f;
    degrees = fmodf(degrees, 180.0f);
    if (degrees < 0.0f) degrees += 180.0f;
    return (u8)((u32)((double)degrees / 20.0) % BINS);
}

KERNEL(picture_cells, CellsParams) {
    __shared__ float magnitudes[4 * CELL * CELL];
    __shared__ u8 bins[4 * CELL * CELL];
    u32 n = blockIdx.x / p.blocks, first = blockIdx.x % p.blocks * 4;
    u32 cell = first + threadIdx.x / (CELL * CELL), pixel = threadIdx.x % (CELL * CELL);
    if (cell < p.cells) {
        u32 y = cell / p.columns * CELL + pixel / CELL, x = cell % p.columns * CELL + pixel % CELL;
        float magnitude;
        bins[threadIdx.x] = gradient(p, n / p.frames, n % p.frames, y, x, &magnitude);
        magnitudes[threadIdx.x] = magnitude;
    }
    __syncthreads();
    u32 mine = threadIdx.x / BINS, bin = threadIdx.x % BINS;
    if (mine >= 4 || first + mine >= p.cells) return;
    double sum = 0.0;
    for (u32 i = mine * CELL * CELL; i < (mine + 1) * CELL * CELL; i++) {
        if (bins[i] == bin) sum += (double)magnitudes[i] / (CELL * CELL);
    }
    p.out[((u64)n * p.cells + first + mine) * BINS + bin] = (float)sum;
}

struct PictureParams {
    const float* cells;    // [rows, frames, cells, BINS]
    const u32* lines;      // [CELL, CELL], bit b: the line of bin b crosses the pixel
    const u32* tokens;     // [rows, max_tokens]
    const u32* counts;     // [rows]
    float* out;            // [rows, max_tokens, patch_t * patch_h * patch_w]
    u32 max_tokens;
    u32 frames;
    u32 height;
    u32 width;
    u32 patch_t;
    u32 patch_h;
    u32 patch_w;
    u32 unused;
};

// The lines that cross a pixel of frame `n`, added up.
DEVICE float drawn_at(const PictureParams& p, u64 n, u32 y, u32 x) {
    u32 rows = p.height / CELL, columns = p.width / CELL;
    if (y / CELL >= rows || x / CELL >= columns) return 0.0f;
    u32 lines = p.lines[y % CELL * CELL + x % CELL];
    const float* cell = p.cells + ((n * rows + y / CELL) * columns + x / CELL) * BINS;
    float value = 0.0f;
    for (u32 bin = 0; bin < BINS; bin++) {
        if (lines >> bin & 1) value += cell[bin];
    }
    return value;
}

KERNEL(picture, PictureParams) {
    u32 dim = p.patch_t * p.patch_h * p.patch_w, row = blockIdx.x / p.max_tokens;
    bool real = blockIdx.x % p.max_tokens < p.counts[row];
    u32 token = real ? p.tokens[blockIdx.x] : 0;
    u32 columns = p.width / p.patch_w, plane = p.height / p.patch_h * columns;
    u32 slot = token / plane, at = token % plane;
    u32 top = at / columns * p.patch_h, left = at % columns * p.patch_w;
    float* out = p.out + (u64)blockIdx.x * dim;
    for (u32 i = threadIdx.x; i < dim; i += blockDim.x) {
        u32 line = i / p.patch_w, frame = slot * p.patch_t + line / p.patch_h;
        u32 y = top + line % p.patch_h, x = left + i % p.patch_w;
        out[i] = real ? drawn_at(p, (u64)row * p.frames + frame, y, x) : 0.0f;
    }
}
