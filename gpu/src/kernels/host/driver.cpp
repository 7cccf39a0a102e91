// A driver and a compiler that are none, for the tests: `libcuda.so.1` and `libnvrtc.so.12` in one,
// with the calls that this crate makes. Kernels run on the host (host.cpp).
//
// Streams are threads that dawdle at random; events are what they are with CUDA: a call captures
// what was recorded last. Memory is filled with rubbish when it is allocated and when it is freed,
// and device memory is never used again. So an order that is not enforced gives wrong numbers.
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>

extern "C" int tubelet_host_launch(const char* name, unsigned blocks, unsigned threads,
                                   size_t shared_bytes, const void* params, size_t params_bytes,
                                   int descending);
size_t host_params_bytes(const char* kernel);

namespace {

enum Result { SUCCESS = 0, INVALID = 1, OUT_OF_MEMORY = 2, NOT_READY = 600, LAUNCH_FAILED = 719 };

const size_t ALIGNMENT = 256;

// Something that happens once.
struct Moment {
    std::mutex mutex;
    std::condition_variable changed;
    bool happened = false;
    std::chrono::steady_clock::time_point when;

    void happen() {
        std::lock_guard<std::mutex> lock(mutex);
        when = std::chrono::steady_clock::now();
        happened = true;
        changed.notify_all();
    }
    void wait() {
        std::unique_lock<std::mutex> lock(mutex);
        changed.wait(lock, [&] { return happened; });
    }
    bool has_happened() {
        std::lock_guard<std::mutex> lock(mutex);
        return happened;
    }
};

struct Event {
    std::mutex mutex;
    std::shared_ptr<Moment> recorded;

    std::shared_ptr<Moment> last() {
        std::lock_guard<std::mutex> lock(mutex);
        return recorded;
    }
};

// Work in order, on a thread.
class Stream {
  public:
    Stream() : thread([this] { run(); }) {
        std::lock_guard<std::mutex> lock(all_mutex);
        all.insert(this);
    }

    ~Stream() {
        {
            std::lock_guard<std::mutex> lock(all_mutex);
            all.erase(this);
        }
        push(nullptr);
        thread.join();
    }

    // Makes every stream there is wait.
    static void all_wait(std::shared_ptr<Moment> moment) {
        std::lock_guard<std::mutex> lock(all_mutex);
        for (Stream* stream : all) stream->push([moment] { moment->wait(); });
    }

    void push(std::function<void()> work) {
        std::lock_guard<std::mutex> lock(mutex);
        queue.push_back(std::move(work));
        changed.notify_all();
    }

    std::shared_ptr<Moment> mark() {
        auto moment = std::make_shared<Moment>();
        push([moment] { moment->happen(); });
        return moment;
    }

  private:
    void run() {
        std::minstd_rand random(std::random_device{}());
        while (true) {
            std::function<void()> work;
            {
                std::unique_lock<std::mutex> lock(mutex);
                changed.wait(lock, [&] { return !queue.empty(); });
                work = std::move(queue.front());
                queue.pop_front();
            }
            if (!work) return;
            std::this_thread::sleep_for(std::chrono::microseconds(random() % 2000));
            work();
        }
    }

    std::mutex mutex;
    std::condition_variable changed;
    std::deque<std::function<void()>> queue;
    std::thread thread;

    static std::mutex all_mutex;
    static std::set<Stream*> all;
};

std::mutex Stream::all_mutex;
std::set<Stream*> Stream::all;

// Whether a test wants this call to fail.
bool fails(const char* call) {
    const char* wanted = getenv("TUBELET_SIMULATED_FAILURE");
    return wanted && strcmp(wanted, call) == 0;
}

void* allocate(size_t bytes) {
    size_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    auto* memory = static_cast<char*>(aligned_alloc(ALIGNMENT, rounded + ALIGNMENT));
    if (!memory) return nullptr;
    memset(memory, 0xcd, rounded + ALIGNMENT);
    // The size, for spoiling it when it is freed.
    memcpy(memory, &rounded, sizeof rounded);
    return memory + ALIGNMENT;
}

void spoil(void* memory) {
    size_t bytes;
    memcpy(&bytes, static_cast<char*>(memory) - ALIGNMENT, sizeof bytes);
    memset(memory, 0xdd, bytes);
}

thread_local void* current_context;
char the_context;
int launch_outcome;

}  // namespace

extern "C" {

typedef uint64_t Address;

int cuInit(unsigned) { return SUCCESS; }
int cuDriverGetVersion(int* version) {
    *version = fails("cuDriverGetVersion") ? 11040 : fails("oldDriver") ? 12040 : 12080;
    return SUCCESS;
}
int cuDeviceGetCount(int* count) {
    *count = fails("cuDeviceGetCount") ? 0 : 1;
    return SUCCESS;
}
int cuDeviceGet(int* device, int ordinal) {
    *device = ordinal;
    return SUCCESS;
}
int cuDeviceGetName(char* name, int bytes, int) {
    strncpy(name, "simulated", static_cast<size_t>(bytes));
    return SUCCESS;
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
    // Compute capability 9.0; memory pools; anything else 0.
    *value = attribute == 75 ? 9 : attribute == 115;
    return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void** context, int) {
    *context = &the_context;
    return SUCCESS;
}
int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
int cuCtxGetCurrent(void** context) {
    *context = current_context;
    return SUCCESS;
}
int cuCtxSetCurrent(void* context) {
    current_context = context;
    return SUCCESS;
}
int cuCtxSynchronize() { return SUCCESS; }
int cuMemPoolCreate(void** pool, const void*) {
    *pool = &the_context;
    return SUCCESS;
}
int cuMemPoolDestroy(void*) { return SUCCESS; }
int cuMemPoolSetAttribute(void*, int, void*) { return SUCCESS; }
int cuGetErrorName(int, const char** text) {
    *text = "SIMULATED";
    return SUCCESS;
}
int cuGetErrorString(int, const char** text) {
    *text = "simulated failure";
    return SUCCESS;
}

int cuStreamCreate(void** stream, unsigned) {
    *stream = new Stream;
    return SUCCESS;
}
int cuStreamDestroy_v2(void* stream) {
    delete static_cast<Stream*>(stream);
    return SUCCESS;
}
int cuStreamSynchronize(void* stream) {
    static_cast<Stream*>(stream)->mark()->wait();
    return launch_outcome;
}
int cuStreamWaitEvent(void* stream, void* event, unsigned) {
    if (fails("cuStreamWaitEvent")) return INVALID;
    auto moment = static_cast<Event*>(event)->last();
    if (moment) static_cast<Stream*>(stream)->push([moment] { moment->wait(); });
    return SUCCESS;
}
int cuEventCreate(void** event, unsigned) {
    *event = new Event;
    return SUCCESS;
}
int cuEventDestroy_v2(void* event) {
    delete static_cast<Event*>(event);
    return SUCCESS;
}
int cuEventRecord(void* event, void* stream) {
    auto* e = static_cast<Event*>(event);
    auto moment = static_cast<Stream*>(stream)->mark();
    std::lock_guard<std::mutex> lock(e->mutex);
    e->recorded = moment;
    return SUCCESS;
}
int cuEventSynchronize(void* event) {
    auto moment = static_cast<Event*>(event)->last();
    if (moment) moment->wait();
    return SUCCESS;
}
int cuEventQuery(void* event) {
    auto moment = static_cast<Event*>(event)->last();
    return !moment || moment->has_happened() ? SUCCESS : NOT_READY;
}

int cuEventElapsedTime_v2(float* milliseconds, void* start, void* end) {
    auto from = static_cast<Event*>(start)->last(), to = static_cast<Event*>(end)->last();
    if (!from || !to) return INVALID;
    if (!from->has_happened() || !to->has_happened()) return NOT_READY;
    *milliseconds = std::chrono::duration<float, std::milli>(to->when - from->when).count();
    return SUCCESS;
}
int cuEventElapsedTime(float* milliseconds, void* start, void* end) {
    return cuEventElapsedTime_v2(milliseconds, start, end);
}
int cuCtxWaitEvent(void*, void* event) {
    if (fails("cuCtxWaitEvent")) return INVALID;
    if (auto moment = static_cast<Event*>(event)->last()) Stream::all_wait(moment);
    return SUCCESS;
}

int cuMemAllocFromPoolAsync(Address* address, size_t bytes, void*, void*) {
    if (fails("cuMemAllocFromPoolAsync")) return OUT_OF_MEMORY;
    *address = reinterpret_cast<Address>(allocate(bytes));
    return *address ? SUCCESS : OUT_OF_MEMORY;
}
int cuMemFreeAsync(Address address, void* stream) {
    static_cast<Stream*>(stream)->push([=] { spoil(reinterpret_cast<void*>(address)); });
    return SUCCESS;
}
int cuMemHostAlloc(void** memory, size_t bytes, unsigned) {
    if (fails("cuMemHostAlloc")) return OUT_OF_MEMORY;
    *memory = allocate(bytes);
    return *memory ? SUCCESS : OUT_OF_MEMORY;
}
int cuMemFreeHost(void* memory) {
    spoil(memory);
    return SUCCESS;
}
int cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, void* stream) {
    static_cast<Stream*>(stream)->push(
        [=] { memcpy(reinterpret_cast<void*>(to), from, bytes); });
    return SUCCESS;
}
int cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, void* stream) {
    static_cast<Stream*>(stream)->push(
        [=] { memcpy(to, reinterpret_cast<const void*>(from), bytes); });
    return SUCCESS;
}
int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void* stream) {
    if (fails("cuMemcpyDtoDAsync")) return INVALID;
    static_cast<Stream*>(stream)->push([=] {
        memcpy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
    });
    return SUCCESS;
}

// `CUDA_MEMCPY2D`, of which only copies from device to device are done.
struct Copy2D {
    size_t from_x, from_y;
    int from_type;
    const void* from_host;
    Address from;
    void* from_array;
    size_t from_pitch, to_x, to_y;
    int to_type;
    void* to_host;
    Address to;
    void* to_array;
    size_t to_pitch, width, height;
};
int cuMemcpy2DAsync_v2(const Copy2D* copy, void* stream) {
    if (copy->from_type != 2 || copy->to_type != 2) return INVALID;
    if (copy->from_x || copy->from_y || copy->to_x || copy->to_y) return INVALID;
    static_cast<Stream*>(stream)->push([c = *copy] {
        for (size_t y = 0; y < c.height; y++) {
            memcpy(reinterpret_cast<char*>(c.to) + y * c.to_pitch,
                   reinterpret_cast<const char*>(c.from) + y * c.from_pitch, c.width);
        }
    });
    return SUCCESS;
}

int cuModuleLoadData(void** module, const void* code) {
    *module = const_cast<void*>(code);
    return memcmp(code, "\x7f" "ELF", 4) == 0 ? SUCCESS : INVALID;
}
int cuModuleUnload(void*) { return SUCCESS; }
int cuModuleGetFunction(void** function, void*, const char* name) {
    *function = strdup(name);
    return host_params_bytes(name) ? SUCCESS : INVALID;
}
int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned,
                   unsigned, unsigned shared_bytes, void* stream, void** params, void**) {
    if (fails("cuLaunchKernel")) return LAUNCH_FAILED;
    auto* name = static_cast<const char*>(function);
    if (y != 1 || z != 1) return INVALID;
    // Parameters are copied by the call, as with CUDA.
    std::string copy(static_cast<const char*>(params[0]), host_params_bytes(name));
    static_cast<Stream*>(stream)->push([=] {
        int outcome = tubelet_host_launch(name, x, threads, shared_bytes, copy.data(), copy.size(), 0);
        if (outcome != 0) launch_outcome = LAUNCH_FAILED;
    });
    return SUCCESS;
}

int nvrtcVersion(int* major, int* minor) {
    *major = 12;
    *minor = 9;
    return SUCCESS;
}
const char* nvrtcGetErrorString(int) { return "simulated failure"; }
int nvrtcGetNumSupportedArchs(int* count) {
    *count = 1;
    return SUCCESS;
}
int nvrtcGetSupportedArchs(int* archs) {
    archs[0] = 90;
    return SUCCESS;
}
int nvrtcCreateProgram(void** program, const char*, const char*, int, const char* const*,
                       const char* const*) {
    *program = nullptr;
    return SUCCESS;
}
int nvrtcCompileProgram(void*, int, const char* const*) {
    return fails("nvrtcCompileProgram") ? 6 : SUCCESS;
}
int nvrtcDestroyProgram(void**) { return SUCCESS; }
int nvrtcGetProgramLogSize(void*, size_t* bytes) {
    *bytes = 4;
    return SUCCESS;
}
int nvrtcGetProgramLog(void*, char* log) {
    memcpy(log, "log", 4);
    return SUCCESS;
}
int nvrtcGetPTXSize(void*, size_t* bytes) {
    *bytes = 0;
    return SUCCESS;
}
int nvrtcGetPTX(void*, char*) { return SUCCESS; }
int nvrtcGetCUBINSize(void*, size_t* bytes) {
    *bytes = 4;
    return SUCCESS;
}
int nvrtcGetCUBIN(void*, char* code) {
    memcpy(code, "\x7f" "ELF", 4);
    return SUCCESS;
}

// A JPEG library that decodes nothing: the samples of a file's planes are a function of their places. A
// "file" is a header of eight bytes: components, sampling, width, height, a number added to all samples,
// two unused ones, and who can decode it: 0 both back ends, 1 the general one, 2 none, 3 is damage, 4 the
// engines, whole. Of a real file the header is read, all can decode it, and the number is a sum of its
// bytes. With NO_REGIONS it is the library before 11.4. The engines' back end checks that it writes
// nothing but the region asked for.
struct Jpeg {
    int components, subsampling, width, height, seed, kind;
};
struct JpegImage {
    unsigned char* channel[4];
    size_t pitch[4];
};
struct JpegParams {
    int x, y, width, height;
};
struct JpegHandle {
    int backend;
};
struct JpegState {
    int count;
};

static int jpeg_read_real(const unsigned char* data, size_t bytes, Jpeg* jpeg) {
    int seed = 0;
    for (size_t i = 0; i < bytes; i++) seed += data[i];
    for (size_t at = 2; at + 15 < bytes && data[at] == 0xFF;) {
        int marker = data[at + 1], length = data[at + 2] << 8 | data[at + 3];
        if (marker < 0xC0 || marker > 0xC2) {
            at += 2 + length;
            continue;
        }
        const unsigned char* frame = data + at + 4;
        int sampling = frame[5] == 1 ? 6 : frame[7] == 0x22 ? 2 : frame[7] == 0x21 ? 1 : 0;
        *jpeg = {frame[5], sampling, frame[3] << 8 | frame[4], frame[1] << 8 | frame[2], seed, 0};
        return SUCCESS;
    }
    return 3;
}

static int jpeg_read(const unsigned char* data, size_t bytes, Jpeg* jpeg) {
    if (bytes < 8) return 10;
    if (data[0] == 0xFF && data[1] == 0xD8) return jpeg_read_real(data, bytes, jpeg);
    *jpeg = {data[0], data[1], data[2], data[3], data[4], data[7]};
    return jpeg->kind == 3 ? 3 : SUCCESS;
}

static void jpeg_write(Jpeg jpeg, JpegImage image, JpegParams part, void* stream) {
    static_cast<Stream*>(stream)->push([=] {
        for (int c = 0; c < jpeg.components; c++) {
            int wide = c && (jpeg.subsampling == 1 || jpeg.subsampling == 2) ? 2 : 1;
            int high = c && jpeg.subsampling == 2 ? 2 : 1;
            int width = (part.width + wide - 1) / wide, height = (part.height + high - 1) / high;
            for (int y = 0; y < height; y++) {
                for (int x = 0; x < width; x++) {
                    int at_x = part.x / wide + x, at_y = part.y / high + y;
                    image.channel[c][y * image.pitch[c] + x] =
                        static_cast<unsigned char>(jpeg.seed + at_x * 3 + at_y * 5 + c * 11);
                }
            }
        }
    });
}

int nvjpegCreateEx(int backend, void*, void*, unsigned, void** handle) {
    if (backend == 3 && fails("nvjpegHardware")) return 7;
    *handle = new JpegHandle{backend};
    return SUCCESS;
}
int nvjpegDestroy(void* handle) {
    delete static_cast<JpegHandle*>(handle);
    return SUCCESS;
}
int nvjpegJpegStateCreate(void*, void** state) {
    *state = new JpegState{0};
    return SUCCESS;
}
int nvjpegJpegStateDestroy(void* state) {
    delete static_cast<JpegState*>(state);
    return SUCCESS;
}
int nvjpegGetImageInfo(void*, const unsigned char* data, size_t bytes, int* components,
                       int* subsampling, int* widths, int* heights) {
    Jpeg jpeg;
    int read = jpeg_read(data, bytes, &jpeg);
    if (read != SUCCESS) return read;
    *components = jpeg.components;
    *subsampling = jpeg.subsampling;
    widths[0] = jpeg.width;
    heights[0] = jpeg.height;
    return SUCCESS;
}
int nvjpegDecode(void*, void*, const unsigned char* data, size_t bytes, int, JpegImage* image,
                 void* stream) {
    Jpeg jpeg;
    int read = jpeg_read(data, bytes, &jpeg);
    if (read != SUCCESS) return read;
    if (jpeg.kind == 2 || jpeg.kind == 4) return 4;
    jpeg_write(jpeg, *image, {0, 0, jpeg.width, jpeg.height}, stream);
    return SUCCESS;
}
static bool jpeg_engines_take(void* handle, const Jpeg& jpeg, bool whole) {
    bool takes = jpeg.kind == 0 || (jpeg.kind == 4 && whole);
    return static_cast<JpegHandle*>(handle)->backend == 3 && takes;
}
int nvjpegDecodeBatchedSupported(void* handle, void* stream, int* answer) {
    *answer = jpeg_engines_take(handle, *static_cast<Jpeg*>(stream), true) ? 0 : 1;
    return SUCCESS;
}
int nvjpegDecodeBatchedInitialize(void*, void* state, int count, int, int) {
    static_cast<JpegState*>(state)->count = count;
    return SUCCESS;
}
int nvjpegDecodeBatched(void* handle, void* state, const unsigned char* const* data,
                        const size_t* bytes, JpegImage* images, void* stream) {
    bool engines = static_cast<JpegHandle*>(handle)->backend == 3;
    for (int i = 0; i < static_cast<JpegState*>(state)->count; i++) {
        Jpeg jpeg;
        if (engines && jpeg_read(data[i], bytes[i], &jpeg) == SUCCESS) {
            if (!jpeg_engines_take(handle, jpeg, true)) return 9;
            jpeg_write(jpeg, images[i], {0, 0, jpeg.width, jpeg.height}, stream);
            continue;
        }
        int done = nvjpegDecode(handle, state, data[i], bytes[i], 1, &images[i], stream);
        if (done != SUCCESS) return done;
    }
    return SUCCESS;
}
int nvjpegJpegStreamCreate(void*, void** stream) {
    *stream = new Jpeg{};
    return SUCCESS;
}
int nvjpegJpegStreamDestroy(void* stream) {
    delete static_cast<Jpeg*>(stream);
    return SUCCESS;
}
int nvjpegJpegStreamParseHeader(void*, const unsigned char* data, size_t bytes, void* stream) {
    return jpeg_read(data, bytes, static_cast<Jpeg*>(stream));
}
int nvjpegDecodeParamsCreate(void*, void** params) {
    *params = new JpegParams{0, 0, -1, -1};
    return SUCCESS;
}
int nvjpegDecodeParamsDestroy(void* params) {
    delete static_cast<JpegParams*>(params);
    return SUCCESS;
}
int nvjpegDecodeParamsSetOutputFormat(void*, int format) { return format == 1 ? SUCCESS : INVALID; }
int nvjpegDecodeParamsSetROI(void* params, int x, int y, int width, int height) {
    *static_cast<JpegParams*>(params) = {x, y, width, height};
    return SUCCESS;
}
#ifndef NO_REGIONS
int nvjpegDecodeBatchedSupportedEx(void* handle, void* stream, void* params, int* answer) {
    bool whole = static_cast<JpegParams*>(params)->width < 0;
    *answer = jpeg_engines_take(handle, *static_cast<Jpeg*>(stream), whole) ? 0 : 1;
    return SUCCESS;
}
int nvjpegDecodeBatchedEx(void* handle, void* state, const unsigned char* const* data,
                          const size_t* bytes, JpegImage* images, void** params, void* stream) {
    if (fails("nvjpegDecodeBatchedEx")) return 6;
    if (static_cast<JpegHandle*>(handle)->backend != 3) return 9;
    for (int i = 0; i < static_cast<JpegState*>(state)->count; i++) {
        Jpeg jpeg;
        int read = jpeg_read(data[i], bytes[i], &jpeg);
        if (read != SUCCESS) return read;
        auto part = *static_cast<JpegParams*>(params[i]);
        if (part.width < 0) part = {0, 0, jpeg.width, jpeg.height};
        jpeg_write(jpeg, images[i], part, stream);
    }
    return SUCCESS;
}
#endif

}  // extern "C"
