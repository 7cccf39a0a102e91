// Pixels to normalised planes or patches. Of bytes, the values come from a table [3, 256] that the
// host computed, so they equal the host's to the bit; floats are taken as they are.
#include "common.cuh"

struct PlanesParams {
    const u8* pixels;
    const float* floats;
    const float* table;
    void* out;
    u32 planes;         // rows x frames
    u32 frames;
    u32 plane;          // height x width
    u32 frame_major;    // 0: [rows, 3, frames, h, w]; 1: [rows, frames, 3, h, w]
    u32 blocks;         // blocks a plane
    u32 vector;         // whether four pixels go at once: plane % 4 == 0
};

template <int V, class T>
DEVICE void planes_of(const PlanesParams& p, const float* table) {
    u32 n = blockIdx.x / p.blocks, part = blockIdx.x % p.blocks;
    u32 row = n / p.frames, frame = n % p.frames;
    Source source = {p.pixels, p.floats, p.frames, p.plane};
    u64 step = (u64)(p.frame_major ? 1 : p.frames) * p.plane;
    u64 first = p.frame_major ? (u64)n * 3 * p.plane : ((u64)row * 3 * p.frames + frame) * p.plane;
    T* out = (T*)p.out + first;
    u32 runs = p.plane / V;
    for (u32 i = part * blockDim.x + threadIdx.x; i < runs; i += p.blocks * blockDim.x) {
        float values[3][V];
        read_run<V>(source, table, row, frame, i * V, values);
        for (int c = 0; c < 3; c++) store_run<V>(out + c * step + (u64)i * V, values[c]);
    }
}

template <class T>
DEVICE void planes_body(const PlanesParams& p) {
    __shared__ float table[768];
    copy_table(p.table, table);
    __syncthreads();
    if (p.vector) {
        planes_of<4, T>(p, table);
    } else {
        planes_of<1, T>(p, table);
    }
}

KERNEL(planes_f32, PlanesParams) { planes_body<float>(p); }
KERNEL(planes_bf16, PlanesParams) { planes_body<Bf16>(p); }
KERNEL(planes_f16, PlanesParams) { planes_body<F16>(p); }

struct PatchesParams {
    const u8* pixels;
    const float* floats;
    const float* table;
    const u32* tokens;  // [rows, count], or null for all tokens in order
    void* out;          // [rows, count, patch values]
    u32 rows;
    u32 count;          // tokens of a row that are written
    u32 frames;
    u32 height;
    u32 width;
    u32 patch_t;
    u32 patch_h;
    u32 patch_w;
    u32 channel_last;   // 0: channel, time, row, column; 1: time, row, column, channel
    u32 per_block;      // tokens a block writes
    u32 vector;         // whether four pixels go at once: patch_w % 4 == 0 and width % 4 == 0
    u32 unused;
};

// The token that is written `n`-th, its first pixel.
struct Corner {
    u32 row;
    u32 frame;
    u32 top;
    u32 left;
};

DEVICE Corner corner_of(const PatchesParams& p, u32 n) {
    u32 row = n / p.count;
    u32 token = p.tokens ? p.tokens[n] : n % p.count;
    u32 columns = p.width / p.patch_w, cells = p.height / p.patch_h * columns;
    u32 cell = token % cells;
    Corner at = {row, token / cells * p.patch_t, cell / columns * p.patch_h,
                 cell % columns * p.patch_w};
    return at;
}

template <int V, class T>
DEVICE void patch_of(const PatchesParams& p, const float* table, u32 n) {
    Corner at = corner_of(p, n);
    u32 volume = p.patch_t * p.patch_h * p.patch_w;
    u32 runs_a_row = p.patch_w / V;
    T* out = (T*)p.out + (u64)n * 3 * volume;
    Source source = {p.pixels, p.floats, p.frames, p.height * p.width};
    for (u32 i = threadIdx.x; i < volume / V; i += blockDim.x) {
        u32 line = i / runs_a_row, x = i % runs_a_row * V;
        u32 frame = at.frame + line / p.patch_h, y = at.top + line % p.patch_h;
        float values[3][V];
        read_run<V>(source, table, at.row, frame, y * p.width + at.left + x, values);
        if (p.channel_last) {
            float mixed[3 * V];
            for (int k = 0; k < 3 * V; k++) mixed[k] = values[k % 3][k / 3];
            for (int c = 0; c < 3; c++) store_run<V>(out + (u64)i * 3 * V + c * V, mixed + c * V);
        } else {
            for (int c = 0; c < 3; c++) store_run<V>(out + c * volume + i * V, values[c]);
        }
    }
}

template <class T>
DEVICE void patches_body(const PatchesParams& p) {
    __shared__ float table[768];
    copy_table(p.table, table);
    __syncthreads();
    u32 end = min((blockIdx.x + 1) * p.per_block, p.rows * p.count);
    for (u32 n = blockIdx.x * p.per_block; n < end; n++) {
        if (p.vector) {
            patch_of<4, T>(p, table, n);
        } else {
            patch_of<1, T>(p, table, n);
        }
    }
}

KERNEL(patches_f32, PatchesParams) { patches_body<float>(p); }
KERNEL(patches_bf16, PatchesParams) { patches_body<Bf16>(p); }
KERNEL(patches_f16, PatchesParams) { patches_body<F16>(p); }
