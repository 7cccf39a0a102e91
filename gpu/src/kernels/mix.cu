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
    u32 vector;          // mixup: whether four elements go at once
    u32 unused;
};

template <int V, class T>
DEVICE void mixup(const MixParams& p, T* a, T* b, u32 first, u32 step) {
    u32 runs = p.planes * p.height * p.width / V;
    for (u32 i = first; i < runs; i += step) {
        float one[V], two[V], mixed[V];
        load_run<V>(a + (u64)i * V, one);
        load_run<V>(b + (u64)i * V, two);
        for (int k = 0; k < V; k++) mixed[k] = one[k] * p.keep + two[k] * p.take;
        store_run<V>(a + (u64)i * V, mixed);
        for (int k = 0; k < V; k++) mixed[k] = two[k] * p.keep + one[k] * p.take;
        store_run<V>(b + (u64)i * V, mixed);
    }
}

template <class T>
DEVICE void cutmix(const MixParams& p, T* a, T* b, u32 first, u32 step) {
    u32 plane = p.height * p.width, area = p.box_height * p.box_width;
    for (u32 i = first; i < p.planes * area; i += step) {
        u32 inside = i % area, y = inside / p.box_width, x = inside % p.box_width;
        u32 at = i / area * plane + (p.top + y) * p.width + p.left + x;
        T one = a[at];
        a[at] = b[at];
        b[at] = one;
    }
}

template <class T>
DEVICE void mix_body(const MixParams& p) {
    u32 row = blockIdx.x / p.blocks, part = blockIdx.x % p.blocks;
    u64 values = (u64)p.planes * p.height * p.width;
    T* a = (T*)p.data + row * values;
    T* b = (T*)p.data + (p.rows - 1 - row) * values;
    u32 first = part * blockDim.x + threadIdx.x, step = p.blocks * blockDim.x;
    if (p.cut) {
        cutmix(p, a, b, first, step);
    } else if (p.vector) {
        mixup<4>(p, a, b, first, step);
    } else {
        mixup<1>(p, a, b, first, step);
    }
}

KERNEL(mix_f32, MixParams) { mix_body<float>(p); }
KERNEL(mix_bf16, MixParams) { mix_body<Bf16>(p); }
KERNEL(mix_f16, MixParams) { mix_body<F16>(p); }
