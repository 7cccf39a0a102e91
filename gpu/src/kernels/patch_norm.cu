// Pixel targets of every published formula. One block a few tokens, one after the other.
//
// The table holds the value of each grey level before the token is standardised (normalised, or put
// back to 0..1), computed on the host; floats are normalised and put back here. Sums are f64 as on the
// host.
#include "common.cuh"

struct PatchNormParams {
    const u8* pixels;      // [rows, frames, height, width, 3], or null
    const float* floats;   // [rows, 3, frames, height, width], where `pixels` is null
    const float* table;    // [3, 256], for `pixels`
    const u32* tokens;     // [rows, max_tokens]
    const u32* counts;     // [rows], how many of a row's tokens are real
    const u32* chosen;     // frames the targets are made of, per_slot for each time slot
    float* out;            // [rows, max_tokens, per_slot * patch_h * patch_w * 3]
    double inside;         // epsilon added to the variance
    double outside;        // epsilon added to the deviation
    double bias;           // subtracted from the count: 1 for the unbiased variance
    float mean[3];         // put floats back to 0..1: value x deviation + mean
    float deviation[3];
    u32 max_tokens;
    u32 frames;
    u32 height;
    u32 width;
    u32 patch_h;
    u32 patch_w;
    u32 per_slot;
    u32 vector;            // whether four pixels go at once: patch_w % 4 == 0 and width % 4 == 0
    u32 standardise;       // 0: values as they are
    u32 joint;             // 1: one mean and variance over all channels
    u32 written;           // rows x max_tokens
    u32 per_block;         // tokens that a block makes
    u32 put_back;          // whether floats are put back to 0..1
    u32 channel_first;     // 0: frame, row, column, channel; 1: channel, frame, row, column
};

// Reads the values of the `n`-th token to `values` (frame, row, column, channel) and adds them to
// this thread's sums.
template <int V>
DEVICE void read_token(const PatchNormParams& p, u32 n, const float* table, float* values,
                       double* sums) {
    u32 row = n / p.max_tokens, token = p.tokens[n];
    u32 columns = p.width / p.patch_w, cells = p.height / p.patch_h * columns;
    u32 slot = token / cells, cell = token % cells;
    u32 top = cell / columns * p.patch_h, left = cell % columns * p.patch_w;
    u32 runs_a_line = p.patch_w / V, runs = p.per_slot * p.patch_h * runs_a_line;
    Source source = {p.pixels, p.floats, p.frames, p.height * p.width};
    for (u32 i = threadIdx.x; i < runs; i += blockDim.x) {
        u32 line = i / runs_a_line, x = i % runs_a_line * V;
        u32 frame = p.chosen[slot * p.per_slot + line / p.patch_h];
        u32 y = top + line % p.patch_h;
        float found[3][V];
        read_run<V>(source, table, row, frame, y * p.width + left + x, found);
        for (int k = 0; k < V; k++) {
            for (int c = 0; c < 3; c++) {
                float value = found[c][k];
                if (p.put_back) value = value * p.deviation[c] + p.mean[c];
                values[(i * V + k) * 3 + c] = value;
                sums[c] += value;
            }
        }
    }
}

// This thread's sums of squares about the means, over the pixels that it read.
template <int V>
DEVICE void square_token(const PatchNormParams& p, const float* values, const double* means,
                         double* squares) {
    u32 runs = p.per_slot * p.patch_h * (p.patch_w / V);
    for (u32 i = threadIdx.x; i < runs; i += blockDim.x) {
        for (int k = 0; k < V; k++) {
            for (int c = 0; c < 3; c++) {
                double off = (double)values[(i * V + k) * 3 + c] - means[c];
                squares[c] += off * off;
            }
        }
    }
}

// Sums each channel over the block, and over the channels where `joint`.
DEVICE void add_up(double* sums, u32 joint, double* scratch) {
    block_sum<3>(sums, scratch);
    if (joint) sums[0] = sums[1] = sums[2] = sums[0] + sums[1] + sums[2];
}

// Means and scales of the values: (value - mean) * scale is the target.
template <int V>
DEVICE void statistics(const PatchNormParams& p, u32 dim, const float* values, double* scratch,
                       double* means, double* scales) {
    double n = p.joint ? dim : dim / 3;
    add_up(means, p.joint, scratch);
    for (int c = 0; c < 3; c++) means[c] /= n;
    square_token<V>(p, values, means, scales);
    add_up(scales, p.joint, scratch);
    for (int c = 0; c < 3; c++) {
        scales[c] = 1.0 / (sqrt(scales[c] / (n - p.bias) + p.inside) + p.outside);
    }
}

template <int V>
DEVICE void make_token(const PatchNormParams& p, u32 n, u32 dim, const float* table, float* values,
                       double* scratch) {
    double means[3] = {0.0, 0.0, 0.0}, scales[3] = {0.0, 0.0, 0.0};
    float* out = p.out + (u64)n * dim;
    read_token<V>(p, n, table, values, means);
    if (p.standardise) statistics<V>(p, dim, values, scratch, means, scales);
    __syncthreads();
    for (u32 i = threadIdx.x; i < dim; i += blockDim.x) {
        u32 pixels = dim / 3, c = p.channel_first ? i / pixels : i % 3;
        float value = values[p.channel_first ? i % pixels * 3 + c : i];
        double mean = c == 0 ? means[0] : c == 1 ? means[1] : means[2];
        double scale = c == 0 ? scales[0] : c == 1 ? scales[1] : scales[2];
        out[i] = p.standardise ? (float)(((double)value - mean) * scale) : value;
    }
    // The next token's values take the place of these.
    __syncthreads();
}

KERNEL(patch_norm, PatchNormParams) {
    __shared__ float table[768];
    __shared__ double scratch[3 * 4];
    DYNAMIC_SHARED(shared);
    float* values = (float*)shared;
    u32 dim = p.per_slot * p.patch_h * p.patch_w * 3;
    copy_table(p.table, table);
    __syncthreads();
    u32 end = min((blockIdx.x + 1) * p.per_block, p.written);
    for (u32 n = blockIdx.x * p.per_block; n < end; n++) {
        if (n % p.max_tokens >= p.counts[n / p.max_tokens]) {
            float* out = p.out + (u64)n * dim;
            for (u32 i = threadIdx.x; i < dim; i += blockDim.x) out[i] = 0.0f;
        } else if (p.vector) {
            make_token<4>(p, n, dim, table, values, scratch);
        } else {
            make_token<1>(p, n, dim, table, values, scratch);
        }
    }
}
