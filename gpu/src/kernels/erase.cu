// Random erasing: the boxes of the slot's rows, filled as the host fills them.
//
// The noise is the host's: a value is a number of the stream (noise of the row, box, frame, purpose),
// which takes one block of Philox 4x32-10 for each normal number, so that number k is that of the
// counter k. In a frame of a box they are numbered channel, row, column, or by the channel alone
// where a box has one colour. Box-Muller in f64, as on the host.
#include "common.cuh"

struct EraseParams {
    void* data;
    const u32* fields;   // [rows, 2 + 4 x boxes]: noise (low, high word); x, y, width, height
    u32 frames;
    u32 height;
    u32 width;
    u32 boxes;           // room for boxes in a row
    u32 blocks;          // blocks a box
    u32 mode;            // 0: zero; 1: one normal colour a box and frame; 2: normal numbers
    u32 frame_major;     // 0: [rows, 3, frames, h, w]; 1: [rows, frames, 3, h, w]
    u32 last;            // last word of the counter: the purpose
};

// A number in [0, 1) of 64 random bits.
DEVICE double unit_of(u32 high, u32 low) {
    u64 bits = (u64)high << 32 | low;
    return (double)(bits >> 11) / 9007199254740992.0;
}

// Number `k` of the stream.
DEVICE float normal_of(const EraseParams& p, const u32* field, u32 box, u32 frame, u32 k) {
    u32 random[4] = {k, box, frame, p.last};
    philox4x32_10(random, field[0], field[1]);
    double radius = sqrt(-2.0 * log(1.0 - unit_of(random[0], random[1])));
    return (float)(radius * cos(6.283185307179586 * unit_of(random[2], random[3])));
}

// Whether a later box of the row has the pixel: it is erased last.
DEVICE bool is_covered(const EraseParams& p, const u32* field, u32 slot, u32 y, u32 x) {
    for (u32 n = slot + 1; n < p.boxes; n++) {
        const u32* box = field + 2 + 4 * n;
        if (x - box[0] < box[2] && y - box[1] < box[3]) return true;
    }
    return false;
}

template <class T>
DEVICE void erase_body(const EraseParams& p) {
    u32 part = blockIdx.x % p.blocks, slot = blockIdx.x / p.blocks % p.boxes;
    u32 row = blockIdx.x / p.blocks / p.boxes;
    const u32* field = p.fields + (u64)row * (2 + 4 * p.boxes);
    const u32* box = field + 2 + 4 * slot;
    u32 left = box[0], top = box[1], wide = box[2], area = box[2] * box[3];
    if (area == 0) return;
    // Empty boxes do not count.
    u32 number = 0;
    for (u32 n = 0; n < slot; n++) number += field[4 + 4 * n] * field[5 + 4 * n] > 0;
    u64 plane = (u64)p.height * p.width, elements = (u64)3 * p.frames * area;
    u64 step = (u64)p.blocks * blockDim.x;
    T* data = (T*)p.data + (u64)row * 3 * p.frames * plane;
    for (u64 e = (u64)part * blockDim.x + threadIdx.x; e < elements; e += step) {
        u32 inside = (u32)(e % area), n = (u32)(e / area), c = n % 3, frame = n / 3;
        u32 y = top + inside / wide, x = left + inside % wide;
        if (is_covered(p, field, slot, y, x)) continue;
        u32 k = p.mode == 1 ? c : c * area + inside;
        float value = p.mode == 0 ? 0.0f : normal_of(p, field, number, frame, k);
        u64 at = p.frame_major ? (u64)frame * 3 + c : (u64)c * p.frames + frame;
        store(data + at * plane + (u64)y * p.width + x, value);
    }
}

KERNEL(erase_f32, EraseParams) { erase_body<float>(p); }
KERNEL(erase_bf16, EraseParams) { erase_body<Bf16>(p); }
KERNEL(erase_f16, EraseParams) { erase_body<F16>(p); }
