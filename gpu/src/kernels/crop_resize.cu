// Decoded frames to pixels of rows: crop, resize, mirroring and colour conversion, with the
// arithmetic of the host's resamplers (`tubelet_augment::resample`) in the same integers. A block
// makes one row of pixels of one frame.
#include "common.cuh"

// A frame and where its pixels go.
struct CropFrame {
    const u8* luma;     // or packed RGB; the first sample held
    const u8* u;
    const u8* v;
    u8* out;            // [height, width, 3]
    u32 geometry;
    u32 unused;
};

// What frames of one place and one crop share.
struct CropGeometry {
    u32 luma_pitch;     // bytes from row to row
    u32 chroma_pitch;
    u32 chroma_step;    // bytes from sample to sample: 1 planar, 2 interleaved; 0: packed RGB
    u32 width;          // of the output
    u32 height;
    u32 axes[4];        // words from `tables` on: luma columns, rows, chroma columns, rows
    int luma;           // the colour matrix
    int red_v;
    int green_u;
    int green_v;
    int blue_u;
    int offset[3];
    u32 unused;
};

struct CropParams {
    const CropFrame* frames;
    const CropGeometry* geometries;
    const u32* tables;
    u32 rows;           // blocks a frame: at least every frame's height
    u32 unused;
};

const u32 NO_AXIS = 0xffffffffu;
const int WEIGHT_BITS = 14;
const int SAMPLE_BITS = 6;
const int MATRIX_BITS = 13;
const int RGB_BITS = 22;

// Coefficients of one axis: in the table start, length, per, 0; first[n]; count[n]; weights.
struct CropAxis {
    u32 start;          // first sample that is looked at
    u32 length;         // and their number
    u32 per;
    const u32* first;
    const u32* count;
    const void* weights;
};

DEVICE CropAxis axis_at(const u32* tables, u32 at, u32 positions) {
    const u32* t = tables + at;
    CropAxis axis = {t[0], t[1], t[2], t + 4, t + 4 + positions, t + 4 + 2 * positions};
    return axis;
}

// Row `y` of one plane before its columns are resized: `columns.length` sums over the row's lines.
DEVICE void lines_of(const u8* plane, u32 pitch, u32 step, const CropAxis& columns,
                     const CropAxis& rows, u32 y, short* line) {
    const short* weights = (const short*)rows.weights + (u64)y * rows.per;
    const u8* top = plane + (u64)(rows.start + rows.first[y]) * pitch;
    u32 count = rows.count[y];
    const int shift = WEIGHT_BITS - SAMPLE_BITS;
    for (u32 x = threadIdx.x; x < columns.length; x += blockDim.x) {
        const u8* at = top + (u64)(columns.start + x) * step;
        int sum = 0;
        for (u32 n = 0; n < count; n++) {
            sum += (at[(u64)n * pitch] * weights[n] + (1 << (shift - 1))) >> shift;
        }
        // Sixteen bits that wrap, as on the host.
        line[x] = (short)sum;
    }
}

DEVICE int column_of(const CropAxis& columns, u32 x, const short* line) {
    const short* weights = (const short*)columns.weights + (u64)x * columns.per;
    const short* at = line + columns.first[x];
    u32 count = columns.count[x];
    int sum = 1 << (WEIGHT_BITS - 1);
    for (u32 n = 0; n < count; n++) sum += at[n] * weights[n];
    sum >>= WEIGHT_BITS;
    return sum < -32768 ? -32768 : sum > 32767 ? 32767 : sum;
}

DEVICE u8 clip8(int value) { return (u8)(value < 0 ? 0 : value > 255 ? 255 : value); }

DEVICE void planes_row(const CropParams& p, const CropFrame& f, const CropGeometry& g, u32 y,
                       short* lines) {
    bool colour = g.axes[2] != NO_AXIS;
    CropAxis columns = axis_at(p.tables, g.axes[0], g.width);
    CropAxis rows = axis_at(p.tables, g.axes[1], g.height);
    CropAxis chroma = columns;
    lines_of(f.luma, g.luma_pitch, 1, columns, rows, y, lines);
    short* of_u = lines + columns.length;
    short* of_v = of_u;
    if (colour) {
        chroma = axis_at(p.tables, g.axes[2], g.width);
        rows = axis_at(p.tables, g.axes[3], g.height);
        of_v = of_u + chroma.length;
        lines_of(f.u, g.chroma_pitch, g.chroma_step, chroma, rows, y, of_u);
        lines_of(f.v, g.chroma_pitch, g.chroma_step, chroma, rows, y, of_v);
    }
    __syncthreads();
    u8* out = f.out + (u64)y * g.width * 3;
    for (u32 x = threadIdx.x; x < g.width; x += blockDim.x) {
        int luma = column_of(columns, x, lines) * g.luma;
        int u = 0, v = 0;
        if (colour) {
            u = column_of(chroma, x, of_u) - (128 << SAMPLE_BITS);
            v = column_of(chroma, x, of_v) - (128 << SAMPLE_BITS);
        }
        int parts[3] = {v * g.red_v, u * g.green_u + v * g.green_v, u * g.blue_u};
        for (int c = 0; c < 3; c++) {
            out[3 * x + c] = clip8((luma + parts[c] + g.offset[c]) >> (MATRIX_BITS + SAMPLE_BITS));
        }
    }
}

// Packed RGB as Pillow resizes it: columns, rounded to bytes, then rows.
DEVICE void rgb_row(const CropParams& p, const CropFrame& f, const CropGeometry& g, u32 y) {
    CropAxis columns = axis_at(p.tables, g.axes[0], g.width);
    CropAxis rows = axis_at(p.tables, g.axes[1], g.height);
    const int* down = (const int*)rows.weights + (u64)y * rows.per;
    const u8* top = f.luma + (u64)(rows.start + rows.first[y]) * g.luma_pitch;
    u32 lines = rows.count[y];
    u8* out = f.out + (u64)y * g.width * 3;
    for (u32 x = threadIdx.x; x < g.width; x += blockDim.x) {
        const int* across = (const int*)columns.weights + (u64)x * columns.per;
        u64 left = (u64)(columns.start + columns.first[x]) * 3;
        u32 count = columns.count[x];
        const int half = 1 << (RGB_BITS - 1);
        int sums[3] = {half, half, half};
        for (u32 line = 0; line < lines; line++) {
            const u8* at = top + (u64)line * g.luma_pitch + left;
            int row[3] = {half, half, half};
            for (u32 n = 0; n < count; n++) {
                for (int c = 0; c < 3; c++) row[c] += across[n] * at[3 * n + c];
            }
            for (int c = 0; c < 3; c++) sums[c] += down[line] * clip8(row[c] >> RGB_BITS);
        }
        for (int c = 0; c < 3; c++) out[3 * x + c] = clip8(sums[c] >> RGB_BITS);
    }
}

KERNEL(crop_resize, CropParams) {
    DYNAMIC_SHARED(shared);
    CropFrame f = p.frames[blockIdx.x / p.rows];
    CropGeometry g = p.geometries[f.geometry];
    u32 y = blockIdx.x % p.rows;
    // The whole block leaves: frames may have fewer rows than the highest.
    if (y >= g.height) return;
    if (g.chroma_step == 0) {
        rgb_row(p, f, g, y);
    } else {
        planes_row(p, f, g, y, (short*)shared);
    }
}
