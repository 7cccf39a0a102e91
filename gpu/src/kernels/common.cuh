// What every kernel needs: fixed-width types, element types of tensors, pixels in vectors, the
// counter-based generator. Compiled by NVRTC for the device and, behind host/host.h, by the host's
// C++ compiler for the tests.
//
// Every kernel takes one parameter block by value. Its fields are ordered so that there is no
// padding; the Rust side has the same struct (`kernels/*.rs`).
#pragma once

#ifdef __CUDACC__
#define KERNEL(name, Params) extern "C" __global__ void name(const Params p)
#define DYNAMIC_SHARED(name) extern __shared__ unsigned long long name[]
#define DEVICE __device__ __forceinline__
#else
#include "host/host.h"
#endif

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

static_assert(sizeof(void*) == 8, "parameter blocks hold 64-bit addresses");

DEVICE u32 bits_of(float value) {
#ifdef __CUDACC__
    return __float_as_uint(value);
#else
    u32 bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
#endif
}

DEVICE float float_of(u32 bits) {
#ifdef __CUDACC__
    return __uint_as_float(bits);
#else
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
#endif
}

// Sixteen-bit floats, as bits.
struct Bf16 {
    u16 bits;
};
struct F16 {
    u16 bits;
};

// Nearest even; a NaN stays one.
DEVICE u16 bf16_bits(float value) {
    u32 bits = bits_of(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (u16)((bits >> 16) | 0x40u);
    return (u16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#ifdef __CUDACC__
DEVICE u16 f16_bits(float value) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

DEVICE float f16_value(u16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
#else
// Nearest even, in integers: a value below half's smallest normal is rounded at a fixed place.
DEVICE u16 f16_bits(float value) {
    u32 bits = bits_of(value);
    u16 sign = (u16)((bits >> 16) & 0x8000u);
    u32 magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (u16)(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) return (u16)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {
        float shifted = float_of(magnitude) * 16777216.0f;  // 2^24: the last bit counts 1
        u32 whole = (u32)shifted;
        float rest = shifted - (float)whole;
        if (rest > 0.5f || (rest == 0.5f && (whole & 1u))) whole += 1;
        return (u16)(sign | whole);
    }
    u32 rounded = magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13) & 1u);
    return (u16)(sign | (rounded >> 13));
}

DEVICE float f16_value(u16 bits) {
    u32 sign = (u32)(bits & 0x8000u) << 16;
    u32 exponent = (bits >> 10) & 31u;
    u32 fraction = bits & 0x3ffu;
    if (exponent == 31u) return float_of(sign | 0x7f800000u | (fraction << 13));
    if (exponent == 0u) {
        float tiny = (float)fraction / 16777216.0f;
        return sign ? -tiny : tiny;
    }
    return float_of(sign | ((exponent + 112u) << 23) | (fraction << 13));
}
#endif

DEVICE float load(const float* at) { return *at; }
DEVICE float load(const Bf16* at) { return float_of((u32)at->bits << 16); }
DEVICE float load(const F16* at) { return f16_value(at->bits); }

DEVICE void store(float* at, float value) { *at = value; }
DEVICE void store(Bf16* at, float value) { at->bits = bf16_bits(value); }
DEVICE void store(F16* at, float value) { at->bits = f16_bits(value); }

struct alignas(16) Float4 {
    float v[4];
};
struct alignas(8) Short4 {
    u16 v[4];
};

// Four neighbours at once; `at` is aligned to four elements.
DEVICE void store4(float* at, const float* v) {
    Float4 four = {{v[0], v[1], v[2], v[3]}};
    *(Float4*)at = four;
}
DEVICE void store4(Bf16* at, const float* v) {
    Short4 four = {{bf16_bits(v[0]), bf16_bits(v[1]), bf16_bits(v[2]), bf16_bits(v[3])}};
    *(Short4*)at = four;
}
DEVICE void store4(F16* at, const float* v) {
    Short4 four = {{f16_bits(v[0]), f16_bits(v[1]), f16_bits(v[2]), f16_bits(v[3])}};
    *(Short4*)at = four;
}

DEVICE void load4(const float* at, float* v) {
    Float4 four = *(const Float4*)at;
    for (int i = 0; i < 4; i++) v[i] = four.v[i];
}
template <class T>
DEVICE void load4(const T* at, float* v) {
    Short4 four = *(const Short4*)at;
    for (int i = 0; i < 4; i++) {
        T one = {four.v[i]};
        v[i] = load(&one);
    }
}

template <int V, class T>
DEVICE void load_run(const T* at, float* values) {
    if (V == 4) {
        load4(at, values);
    } else {
        values[0] = load(at);
    }
}

// V pixels in a row, V = 1 or 4: interleaved RGB bytes to three runs of V looked-up values.
// For V = 4, `at` is aligned to 4 bytes.
template <int V>
DEVICE void look_up(const u8* at, const float* table, float (*values)[V]) {
    u8 bytes[3 * V];
    if (V == 4) {
        const u32* words = (const u32*)at;
#pragma unroll
        for (int i = 0; i < 3 * V; i += 4) {
            u32 word = words[i / 4];
            for (int k = 0; k < 4 && i + k < 3 * V; k++) bytes[i + k] = (u8)(word >> (8 * k));
        }
    } else {
        for (int i = 0; i < 3 * V; i++) bytes[i] = at[i];
    }
#pragma unroll
    for (int i = 0; i < V; i++) {
#pragma unroll
        for (int c = 0; c < 3; c++) values[c][i] = table[c * 256 + bytes[3 * i + c]];
    }
}

// Where pixels come from: bytes and the table of their values, or floats.
struct Source {
    const u8* pixels;     // [rows, frames, height, width, 3], or null
    const float* floats;  // [rows, 3, frames, height, width], where `pixels` is null
    u32 frames;
    u32 plane;            // height x width
};

// V neighbours of each channel from pixel `at` of a frame on. For V = 4, `at` is a multiple of 4,
// bytes are aligned to 4 and floats to 16.
template <int V>
DEVICE void read_run(const Source& s, const float* table, u32 row, u32 frame, u32 at,
                     float (*values)[V]) {
    if (s.pixels) {
        u64 pixel = ((u64)row * s.frames + frame) * s.plane + at;
        look_up<V>(s.pixels + pixel * 3, table, values);
    } else {
        u64 step = (u64)s.frames * s.plane;
        const float* first = s.floats + row * 3 * step + (u64)frame * s.plane + at;
        for (int c = 0; c < 3; c++) load_run<V>(first + c * step, values[c]);
    }
}

// Channel `c` of pixel `at` of a frame.
DEVICE float pixel_at(const Source& s, const float* table, u32 row, u32 frame, u32 c, u32 at) {
    if (s.pixels) {
        u64 pixel = ((u64)row * s.frames + frame) * s.plane + at;
        return table[c * 256 + s.pixels[pixel * 3 + c]];
    }
    return s.floats[(((u64)row * 3 + c) * s.frames + frame) * s.plane + at];
}

template <int V, class T>
DEVICE void store_run(T* at, const float* values) {
    if (V == 4) {
        store4(at, values);
    } else {
        store(at, values[0]);
    }
}

// Copies a table of 3 x 256 values, if there is one, to shared memory; the caller has a barrier after
// it.
DEVICE void copy_table(const float* from, float* to) {
    for (u32 i = threadIdx.x; from && i < 768; i += blockDim.x) to[i] = from[i];
}

// Sums N values over the block; all threads call it and get the sums. `scratch` holds N values a
// warp; blockDim.x is a multiple of 32. The order of addition is fixed.
template <int N>
DEVICE void block_sum(double* values, double* scratch) {
    u32 warps = blockDim.x / 32;
    for (int n = 0; n < N; n++) {
        for (int lane = 16; lane > 0; lane /= 2) {
            values[n] += __shfl_xor_sync(0xffffffffu, values[n], lane);
        }
        if (threadIdx.x % 32 == 0) scratch[n * warps + threadIdx.x / 32] = values[n];
    }
    __syncthreads();
    for (int n = 0; n < N; n++) {
        values[n] = 0.0;
        for (u32 w = 0; w < warps; w++) values[n] += scratch[n * warps + w];
    }
    // The scratch may be used again.
    __syncthreads();
}

// One block of Philox 4x32 with ten rounds, as `tubelet_core::key` has it.
DEVICE void philox4x32_10(u32* c, u32 k0, u32 k1) {
    for (int round = 0; round < 10; round++) {
        u64 p0 = (u64)0xD2511F53u * c[0];
        u64 p1 = (u64)0xCD9E8D57u * c[2];
        u32 next0 = (u32)(p1 >> 32) ^ c[1] ^ k0;
        u32 next2 = (u32)(p0 >> 32) ^ c[3] ^ k1;
        c[0] = next0;
        c[1] = (u32)p1;
        c[2] = next2;
        c[3] = (u32)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}
