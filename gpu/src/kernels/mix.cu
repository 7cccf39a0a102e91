// Mixup and CutMix in batch mode, in place: row r and row rows-1-r are partners, one thread changes
// both, so neither reads what the other wrote.
#include "common.cuh"

struct MixParams {
    void* data;          // [rows, planes, height, width]
    u32 rows;
    u32 planes;          // 3 x frames
    u32 height;
    u32 width;
    u32 cut;             // 0: mixup; 1: CutMix
    float keep;          // mixup: the row's share
    float take;          // mixup: the partner's share
    u32 top;             // CutMix: the box taken from the partner
    u32 left;
    u32 box_height;
    u32 box_width;
    u32 blocks;          // blocks a pair
};

template <class T>
DEVICE void mix_body(const MixParams& p) {
    u32 row = blockIdx.x / p.blocks, part = blockIdx.x % p.blocks;
    u64 plane = (u64)p.height * p.width, values = p.planes * plane;
    T* a = (T*)p.data + row * values;
    T* b = (T*)p.data + (p.rows - 1 - row) * values;
    u64 area = p.cut ? (u64)p.box_height * p.box_width : plane;
    u64 step = (u64)p.blocks * blockDim.x;
    for (u64 i = (u64)part * blockDim.x + threadIdx.x; i < p.planes * area; i += step) {
        u64 at = i;
        if (p.cut) {
            u32 y = (u32)(i % area) / p.box_width, x = (u32)(i % area) % p.box_width;
            at = i / area * plane + (u64)(p.top + y) * p.width + p.left + x;
        }
        float one = load(a + at), two = load(b + at);
        store(a + at, p.cut ? two : one * p.keep + two * p.take);
        store(b + at, p.cut ? one : two * p.keep + one * p.take);
    }
}

KERNEL(mix_f32, MixParams) { mix_body<float>(p); }
KERNEL(mix_bf16, MixParams) { mix_body<Bf16>(p); }
KERNEL(mix_f16, MixParams) { mix_body<F16>(p); }
