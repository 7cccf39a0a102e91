// Masks to ascending lists of visible and masked tokens, one block a row; and one bit of masks to
// bytes of 0 and 1.
#include "common.cuh"

struct IndicesParams {
    const u8* mask;      // [rows, tokens], bit 0 = masked; further passes above it
    u32* visible;        // [rows, max_visible]; short rows repeat their last index
    u32* masked;         // [rows, max_masked]
    u32* masked_count;   // [rows]
    u32 tokens;
    u32 max_visible;
    u32 max_masked;
    u32 bit;             // the pass
};

// Fills a list from `count` on with its last index, or 0 where it is empty.
DEVICE void pad(u32* list, u32 count, u32 length, u32 last) {
    for (u32 i = count + threadIdx.x; i < length; i += blockDim.x) list[i] = count ? last : 0;
}

KERNEL(indices, IndicesParams) {
    __shared__ u32 before[256];
    __shared__ u32 last_of[2];
    const u8* mask = p.mask + (u64)blockIdx.x * p.tokens;
    u32* lists[2] = {p.visible + (u64)blockIdx.x * p.max_visible,
                     p.masked + (u64)blockIdx.x * p.max_masked};
    // Each thread owns a run of tokens; a scan over the threads tells where its indices go.
    u32 run = (p.tokens + blockDim.x - 1) / blockDim.x;
    u32 start = min(threadIdx.x * run, p.tokens), end = min(start + run, p.tokens);
    u32 own = 0;
    for (u32 i = start; i < end; i++) own += mask[i] >> p.bit & 1;
    before[threadIdx.x] = own;
    __syncthreads();
    for (u32 step = 1; step < blockDim.x; step *= 2) {
        u32 add = threadIdx.x >= step ? before[threadIdx.x - step] : 0;
        __syncthreads();
        before[threadIdx.x] += add;
        __syncthreads();
    }
    u32 masked = before[blockDim.x - 1];
    u32 at[2] = {start - (before[threadIdx.x] - own), before[threadIdx.x] - own};
    u32 count[2] = {p.tokens - masked, masked};
    for (u32 i = start; i < end; i++) {
        u32 kind = mask[i] >> p.bit & 1;
        lists[kind][at[kind]++] = i;
        if (at[kind] == count[kind]) last_of[kind] = i;
    }
    __syncthreads();
    pad(lists[0], count[0], p.max_visible, last_of[0]);
    pad(lists[1], count[1], p.max_masked, last_of[1]);
    if (threadIdx.x == 0) p.masked_count[blockIdx.x] = masked;
}

struct FlagsParams {
    const u8* mask;
    u8* out;
    u32 count;
    u32 bit;
};

KERNEL(flags, FlagsParams) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < p.count) p.out[i] = (u8)(p.mask[i] >> p.bit & 1);
}
