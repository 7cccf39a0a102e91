// Runs the kernels on the host, for the tests. Blocks run one after the other; the threads of a
// block are fibres that run in turn, in ascending or descending order, each until its next barrier,
// that of its warp (a shuffle) or of its block. A kernel with a barrier too few gives different
// numbers in the two orders.
#include "host.h"

#include <ucontext.h>

thread_local HostDim threadIdx, blockIdx, blockDim, gridDim;
thread_local unsigned long long* host_shared;

static const HostKernel* first_kernel;

HostKernel::HostKernel(const char* name, size_t params_bytes, void (*call)(const void*))
    : name(name), params_bytes(params_bytes), call(call), next(first_kernel) {
    first_kernel = this;
}

#include "../color.cu"
#include "../crop_resize.cu"
#include "../erase.cu"
#include "../hog.cu"
#include "../indices.cu"
#include "../mix.cu"
#include "../normalize.cu"
#include "../patch_norm.cu"
#include "../picture.cu"

namespace {

const size_t STACK_BYTES = 64 * 1024;

// Where a fibre stands.
enum Stand { READY, AT_WARP_BARRIER, AT_BLOCK_BARRIER, ENDED };

struct Fibre {
    ucontext_t context;
    Stand stand;
};

thread_local ucontext_t scheduler;
thread_local Fibre* current;
thread_local const HostKernel* kernel;
thread_local const void* kernel_params;

void run_fibre() {
    kernel->call(kernel_params);
    current->stand = ENDED;
}

void start(Fibre* fibre, char* stack) {
    fibre->stand = READY;
    getcontext(&fibre->context);
    fibre->context.uc_stack.ss_sp = stack;
    fibre->context.uc_stack.ss_size = STACK_BYTES;
    fibre->context.uc_link = &scheduler;
    makecontext(&fibre->context, run_fibre, 0);
}

// Hands over to the scheduler, to go on when the others have come to the same barrier.
void wait_at(Stand barrier) {
    current->stand = barrier;
    swapcontext(&current->context, &scheduler);
}

// Runs the threads `first..end` that stand at `from` to their next barrier or end, in order.
// Returns how many of all stand at a warp's barrier then.
unsigned turn(Fibre* fibres, unsigned first, unsigned end, Stand from, int descending) {
    unsigned waiting = 0;
    for (unsigned i = first; i < end; i++) {
        unsigned n = descending ? first + end - 1 - i : i;
        if (fibres[n].stand == from) {
            threadIdx = {n, 0, 0};
            current = &fibres[n];
            swapcontext(&scheduler, &current->context);
        }
        waiting += fibres[n].stand == AT_WARP_BARRIER;
    }
    return waiting;
}

enum Outcome { OK = 0, NO_KERNEL = 1, WRONG_PARAMS = 2, SPLIT_BARRIER = 3, NO_MEMORY = 4 };

// Runs a warp to the block's next barrier. Its threads pass the warp's barriers together, or the
// kernel is wrong.
bool run_warp(Fibre* fibres, unsigned first, unsigned end, Stand from, int descending) {
    unsigned waiting = turn(fibres, first, end, from, descending);
    while (waiting == end - first) {
        waiting = turn(fibres, first, end, AT_WARP_BARRIER, descending);
    }
    return waiting == 0;
}

Outcome run_block(Fibre* fibres, char* stacks, unsigned threads, int descending) {
    for (unsigned i = 0; i < threads; i++) start(&fibres[i], stacks + i * STACK_BYTES);
    unsigned warps = (threads + 31) / 32, ended = 0;
    for (Stand from = READY; ended == 0; from = AT_BLOCK_BARRIER) {
        for (unsigned i = 0; i < warps; i++) {
            unsigned first = (descending ? warps - 1 - i : i) * 32;
            unsigned end = first + 32 < threads ? first + 32 : threads;
            if (!run_warp(fibres, first, end, from, descending)) return SPLIT_BARRIER;
        }
        for (unsigned i = 0; i < threads; i++) ended += fibres[i].stand == ENDED;
    }
    return ended == threads ? OK : SPLIT_BARRIER;
}

Outcome run_grid(unsigned threads, size_t shared_bytes, int descending) {
    Fibre* fibres = (Fibre*)calloc(threads, sizeof(Fibre));
    char* stacks = (char*)malloc(threads * STACK_BYTES);
    host_shared = (unsigned long long*)malloc(shared_bytes + 16);
    Outcome outcome = fibres && stacks && host_shared ? OK : NO_MEMORY;
    for (unsigned i = 0; i < gridDim.x && outcome == OK; i++) {
        blockIdx = {i, 0, 0};
        // Nothing may be expected of shared memory that was not written: NaNs.
        memset(host_shared, 0xff, shared_bytes);
        outcome = run_block(fibres, stacks, threads, descending);
    }
    free(host_shared);
    free(stacks);
    free(fibres);
    return outcome;
}

}  // namespace

double host_exchange(double value, int lane) {
    static thread_local double values[1024];
    values[threadIdx.x] = value;
    wait_at(AT_WARP_BARRIER);
    double other = values[threadIdx.x ^ (unsigned)lane];
    wait_at(AT_WARP_BARRIER);
    return other;
}

void host_barrier() { wait_at(AT_BLOCK_BARRIER); }

static const HostKernel* find_kernel(const char* name) {
    const HostKernel* found = first_kernel;
    while (found && strcmp(found->name, name) != 0) found = found->next;
    return found;
}

// Bytes of a kernel's parameters; 0 where there is no such kernel.
size_t host_params_bytes(const char* name) {
    const HostKernel* found = find_kernel(name);
    return found ? found->params_bytes : 0;
}

// Runs kernel `name` over `blocks` blocks of `threads` threads. Returns an `Outcome`.
extern "C" int tubelet_host_launch(const char* name, unsigned blocks, unsigned threads,
                                   size_t shared_bytes, const void* params, size_t params_bytes,
                                   int descending) {
    kernel = find_kernel(name);
    if (!kernel) return NO_KERNEL;
    if (kernel->params_bytes != params_bytes) return WRONG_PARAMS;
    kernel_params = params;
    gridDim = {blocks, 1, 1};
    blockDim = {threads, 1, 1};
    return run_grid(threads, shared_bytes, descending);
}
