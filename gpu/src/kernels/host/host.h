// The part of CUDA C++ that the kernels use, for the host's compiler. The threads of a block are
// fibres of one thread; a barrier hands over to the next fibre (`host.cpp`).
#pragma once

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct HostDim {
    unsigned x, y, z;
};

extern thread_local HostDim threadIdx, blockIdx, blockDim, gridDim;
// The block's dynamic shared memory.
extern thread_local unsigned long long* host_shared;

// Waits until every thread of the block has come here.
void host_barrier();

// A kernel by name.
struct HostKernel {
    const char* name;
    size_t params_bytes;
    void (*call)(const void* params);
    const HostKernel* next;

    HostKernel(const char* name, size_t params_bytes, void (*call)(const void*));
};

// The value that the thread of the warp whose number differs in the bits `lane` has. The whole warp
// calls it.
double host_exchange(double value, int lane);

#define __syncthreads() host_barrier()
#define __shfl_xor_sync(mask, value, lane) host_exchange(value, lane)
#define __shared__ static thread_local
#define DEVICE static inline
#define DYNAMIC_SHARED(name) unsigned long long* name = host_shared
#define KERNEL(name, Params)                                                              \
    static void name(const Params p);                                                     \
    static void name##_call(const void* params) { name(*(const Params*)params); }         \
    static const HostKernel name##_entry(#name, sizeof(Params), name##_call);             \
    static void name(const Params p)

static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
