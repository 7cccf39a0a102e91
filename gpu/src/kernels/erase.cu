// Random erasing: boxes filled with standard normal noise, fresh for every frame and channel.
//
// The noise is counter-based: element e of a box (channel, frame, row, column) is number e % 4 of
// the Philox 4x32-10 block whose counter is (2^31 + e / 4, epoch, sample, last) under the key seed,
// made normal by Box-Muller in f32. The sample's own draws use counters below 2^31.
#include "common.cuh"

struct EraseBox {
    u32 row;
    u32 top;
    u32 left;
    u32 height;
    u32 width;
    u32 epoch;
    u32 sample;          // low 32 bits
    u32 last;            // sample's high bits, purpose, repeat
};

struct EraseParams {
    void* data;          // [rows, 3, frames, height, width]
    const EraseBox* boxes;
    u32 frames;
    u32 height;
    u32 width;
    u32 blocks;          // blocks a box
    u32 seed_low;
    u32 seed_high;
};

// Two standard normal numbers of 64 random bits.
DEVICE void normals(u32 a, u32 b, float* out) {
    float radius = sqrtf(-2.0f * logf((float)((a >> 8) + 1u) * 5.9604644775390625e-8f));
    float angle = 6.283185307179586f * ((float)(b >> 8) * 5.9604644775390625e-8f);
    out[0] = radius * cosf(angle);
    out[1] = radius * sinf(angle);
}

template <class T>
DEVICE void erase_body(const EraseParams& p) {
    EraseBox box = p.boxes[blockIdx.x / p.blocks];
    u64 plane = (u64)p.height * p.width;
    T* row = (T*)p.data + (u64)box.row * 3 * p.frames * plane;
    u32 area = box.height * box.width;
    u64 elements = (u64)3 * p.frames * area;
    u64 step = (u64)p.blocks * blockDim.x;
    u64 start = (u64)(blockIdx.x % p.blocks) * blockDim.x + threadIdx.x;
    for (u64 block = start; block * 4 < elements; block += step) {
        u32 random[4] = {0x80000000u + (u32)block, box.epoch, box.sample, box.last};
        philox4x32_10(random, p.seed_low, p.seed_high);
        float noise[4];
        normals(random[0], random[1], noise);
        normals(random[2], random[3], noise + 2);
        for (u32 k = 0; k < 4 && block * 4 + k < elements; k++) {
            u64 e = block * 4 + k;
            u32 inside = (u32)(e % area), y = inside / box.width, x = inside % box.width;
            store(row + e / area * plane + (u64)(box.top + y) * p.width + box.left + x, noise[k]);
        }
    }
}

KERNEL(erase_f32, EraseParams) { erase_body<float>(p); }
KERNEL(erase_bf16, EraseParams) { erase_body<Bf16>(p); }
KERNEL(erase_f16, EraseParams) { erase_body<F16>(p); }
