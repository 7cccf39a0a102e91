// Mixup and CutMix, in place: one thread changes a place of both rows of a pair, so neither reads what
// the other wrote. Each row of a pair may be mixed in its own way.
#include "common.cuh"

struct MixRow {
    u32 kind;            // 0: as it is; 1: mixup; 2: CutMix
    float keep;          // mixup: the row's share
    float take;          // mixup: the partner's share
    u32 top;             // CutMix: the box that is the partner's
    u32 left;
    u32 height;
    u32 width;
    u32 unused;
};

struct MixPair {
    u32 first;           // the two rows
    u32 second;
    u32 top;             // outside this box nothing changes
    u32 left;
    u32 height;
    u32 width;
    MixRow own[2];
};

struct MixParams {
    void* data;          // [rows, planes, height, width]
    u32 planes;          // 3 x frames
    u32 height;
    u32 width;
    u32 blocks;          // blocks a pair
    u32 vector;          // whether four elements go at once; then boxes are made of whole fours
    u32 unused;
    MixPair pairs[32];
};

DEVICE float mixed(const MixRow& row, float own, float other, u32 x, u32 y) {
    if (row.kind == 1) return own * row.keep + other * row.take;
    // Differences below 0 wrap to large numbers.
    bool inside = x - row.left < row.width && y - row.top < row.height;
    return row.kind == 2 && inside ? other : own;
}

template <int V, class T>
DEVICE void mix_pair(const MixParams& p, u32 pair, u32 first, u32 step) {
    u64 values = (u64)p.planes * p.height * p.width;
    T* a = (T*)p.data + p.pairs[pair].first * values;
    T* b = (T*)p.data + p.pairs[pair].second * values;
    u32 top = p.pairs[pair].top, left = p.pairs[pair].left;
    u32 runs = p.pairs[pair].width / V, area = p.pairs[pair].height * runs;
    MixRow one = p.pairs[pair].own[0], two = p.pairs[pair].own[1];
    for (u32 i = first; i < p.planes * area; i += step) {
        u32 inside = i % area, y = top + inside / runs, x = left + inside % runs * V;
        u64 at = ((u64)(i / area) * p.height + y) * p.width + x;
        float u[V], v[V], out[V];
        load_run<V>(a + at, u);
        load_run<V>(b + at, v);
        for (int k = 0; k < V; k++) out[k] = mixed(one, u[k], v[k], x + k, y);
        store_run<V>(a + at, out);
        for (int k = 0; k < V; k++) out[k] = mixed(two, v[k], u[k], x + k, y);
        store_run<V>(b + at, out);
    }
}

template <class T>
DEVICE void mix_body(const MixParams& p) {
    u32 pair = blockIdx.x / p.blocks;
    u32 first = blockIdx.x % p.blocks * blockDim.x + threadIdx.x, step = p.blocks * blockDim.x;
    if (p.vector) {
        mix_pair<4, T>(p, pair, first, step);
    } else {
        mix_pair<1, T>(p, pair, first, step);
    }
}

KERNEL(mix_f32, MixParams) { mix_body<float>(p); }
KERNEL(mix_bf16, MixParams) { mix_body<Bf16>(p); }
KERNEL(mix_f16, MixParams) { mix_body<F16>(p); }
