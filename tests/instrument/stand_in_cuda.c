// A libcuda of which a test sets the clocks. Every stream has a clock of its own, in nanoseconds, that `fake_work` puts
// forward and nothing else; an event takes the time of its stream. Streams are numbers: the device times 256, plus the
// stream's own number; 0 is the legacy default stream of the current context. What a real driver would punish is counted
// in `fake_count("violations")`.
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DEVICES = 8, STREAMS = 256 * DEVICES, EVENTS = 1 << 16, FUNCTIONS = 16 };
enum { INVALID_VALUE = 1, NOT_INITIALIZED = 3, INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_READY = 600, IMPLICIT = 906 };

struct event {
  int alive, device, recorded;
  uintptr_t stream;
  int64_t time, place;
};

// Of one's own, since a mutex is seen by thread sanitizers, which would take it for what keeps threads apart that call.
static atomic_flag busy = ATOMIC_FLAG_INIT;
static void lock(void) {
  while (atomic_flag_test_and_set_explicit(&busy, memory_order_acquire)) sched_yield();
}
static void unlock(void) { atomic_flag_clear_explicit(&busy, memory_order_release); }

static struct event events[EVENTS];
static int64_t clocks[STREAMS], launched[STREAMS], reached[STREAMS];
static int capturing[STREAMS], held[STREAMS], active[DEVICES], retained[DEVICES];
static int failing_code, failing_times;
static volatile int stalled;
static char failing[64];
static int64_t made, alive, most_alive, records, queries, violations, pushes;
static __thread int context;  // of the current device, plus one; 0 for none
static __thread int capture_mode;
static __thread int32_t used_device;
static __thread uintptr_t used_stream;

static uintptr_t stream_of(void* handle) {
  const uintptr_t number = (uintptr_t)handle;
  return number == 0 && context > 0 ? (uintptr_t)(context - 1) * 256 : number;
}

// Not strcmp: sanitizers watch that, and would tell of the names.
static int is_same(const char* one, const char* other) {
  while (*one != 0 && *one == *other) ++one, ++other;
  return *one == *other;
}

static int fails(const char* name) {
  if (failing_times == 0 || !is_same(failing, name)) return 0;
  if (failing_times > 0) --failing_times;
  return failing_code;
}

static int is_capturing_anywhere(void) {
  for (int i = 0; i < STREAMS; ++i) {
    if (capturing[i] > 0) return 1;
  }
  return 0;
}

// Of calls that a capture in its usual, global mode forbids to every thread that has not opted out.
static void unsafe_call(void) {
  if (capture_mode != 2 && is_capturing_anywhere()) ++violations;
}

// What the test does.

void fake_reset(void) {
  memset(events, 0, sizeof events);
  memset(clocks, 0, sizeof clocks);
  memset(launched, 0, sizeof launched);
  memset(reached, 0, sizeof reached);
  memset(capturing, 0, sizeof capturing);
  memset(held, 0, sizeof held);
  memset(retained, 0, sizeof retained);
  for (int i = 0; i < DEVICES; ++i) active[i] = 1;
  failing_times = 0;
  made = alive = most_alive = records = queries = violations = pushes = 0;
}

void fake_use(int32_t device, uintptr_t stream) { used_device = device, used_stream = stream; }
void fake_enter(int device) { context = device + 1; }  // -1: no context is current
void fake_activate(int device, int is_active) { active[device] = is_active; }
void fake_capture(uintptr_t stream, int status) { capturing[stream] = status; }
void fake_fail(const char* name, int code, int times) {
  for (size_t at = 0; at < sizeof failing - 1 && (failing[at] = name[at]) != 0; ++at) {
  }
  failing_code = code, failing_times = times;
}

// While it is stalled, recording an event waits, at most five seconds.
void fake_stall(int is_stalled) { stalled = is_stalled; }

// Work for the calling thread's stream.
void fake_work(int64_t ns) {
  lock();
  const uintptr_t stream = used_stream == 0 ? (uintptr_t)used_device * 256 : used_stream;
  clocks[stream] += ns;
  ++launched[stream];
  if (!held[stream]) reached[stream] = launched[stream];
  unlock();
}

// While it is held, a stream comes to nothing that is launched.
void fake_hold(uintptr_t stream, int is_held) {
  lock();
  held[stream] = is_held;
  if (!is_held) reached[stream] = launched[stream];
  unlock();
}

int64_t fake_count(const char* name) {
  if (strcmp(name, "made") == 0) return made;
  if (strcmp(name, "alive") == 0) return alive;
  if (strcmp(name, "most_alive") == 0) return most_alive;
  if (strcmp(name, "records") == 0) return records;
  if (strcmp(name, "queries") == 0) return queries;
  if (strcmp(name, "violations") == 0) return violations;
  if (strcmp(name, "pushes") == 0) return pushes;
  int64_t sum = 0;
  for (int i = 0; i < DEVICES; ++i) sum += retained[i];
  return strcmp(name, "retained") == 0 ? sum : -1;
}

int fake_current(int32_t* device, void** stream) {
  const int is_used = *device < 0 || *device == used_device;
  if (is_used) *device = used_device;
  *stream = is_used ? (void*)used_stream : NULL;
  return 1;
}
int fake_get_device(void) { return used_device; }
uintptr_t fake_get_stream(int device) { return device == used_device ? used_stream : 0; }

// What a driver does.

int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return ordinal < DEVICES ? fails("cuDeviceGet") : 101;
}
int cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* is_active) {
  *flags = 0, *is_active = active[device];
  return 0;
}
int cuDevicePrimaryCtxRetain(void** found, int device) {
  ++retained[device];
  *found = (void*)(uintptr_t)(device + 1);
  return fails("cuDevicePrimaryCtxRetain");
}
int cuDevicePrimaryCtxRelease_v2(int device) { return --retained[device], 0; }
int cuCtxGetCurrent(void** found) { return *found = (void*)(uintptr_t)context, 0; }

static __thread int below[16], depth;
int cuCtxPushCurrent_v2(void* entered) {
  __atomic_add_fetch(&pushes, 1, __ATOMIC_RELAXED);
  below[depth++] = context;
  context = (int)(uintptr_t)entered;
  return 0;
}
int cuCtxPopCurrent_v2(void** left) {
  *left = (void*)(uintptr_t)context;
  context = below[--depth];
  return 0;
}

int cuThreadExchangeStreamCaptureMode(int* mode) {
  const int before = capture_mode;
  capture_mode = *mode;
  *mode = before;
  return 0;
}

int cuStreamIsCapturing(void* handle, int* status) {
  const int now = capturing[stream_of(handle)];
  *status = now < 0 ? 0 : now;
  return now < 0 ? IMPLICIT : fails("cuStreamIsCapturing");
}

int cuEventCreate(void** created, unsigned flags) {
  sched_yield();  // it takes long enough for others to come in between
  lock();
  int result = fails("cuEventCreate");
  unsafe_call();
  if (context == 0) result = INVALID_CONTEXT;
  if (flags != 0) result = INVALID_VALUE;
  if (result == 0) {
    const int64_t number = ++made;
    events[number] = (struct event){.alive = 1, .device = context - 1};
    if (++alive > most_alive) most_alive = alive;
    *created = (void*)(uintptr_t)number;
  }
  unlock();
  return result;
}

int cuEventDestroy_v2(void* handle) {
  lock();
  struct event* event = &events[(uintptr_t)handle];
  if (!event->alive) ++violations;
  event->alive = 0;
  --alive;
  unlock();
  return 0;
}

int cuEventRecord(void* handle, void* on) {
  for (int wait = 0; stalled && wait < 5000; ++wait) usleep(1000);
  if (stalled) ++violations;
  lock();
  struct event* event = &events[(uintptr_t)handle];
  const uintptr_t stream = stream_of(on);
  int result = fails("cuEventRecord");
  if (!event->alive || event->device != (int)(stream / 256)) result = INVALID_HANDLE, ++violations;
  if (on == NULL && context == 0) result = INVALID_CONTEXT, ++violations;
  if (capturing[stream] != 0) result = IMPLICIT, ++violations;
  if (result == 0) {
    event->recorded = 1;
    event->stream = stream;
    event->time = clocks[stream];
    event->place = ++launched[stream];
    if (!held[stream]) reached[stream] = launched[stream];
    ++records;
  }
  unlock();
  return result;
}

static int is_over(const struct event* event) { return event->recorded && event->place <= reached[event->stream]; }

int cuEventQuery(void* handle) {
  lock();
  ++queries;
  unsafe_call();
  int result = fails("cuEventQuery");
  if (context == 0 || !events[(uintptr_t)handle].alive) result = INVALID_HANDLE, ++violations;
  if (result == 0 && !is_over(&events[(uintptr_t)handle])) result = NOT_READY;
  unlock();
  return result;
}

int cuEventElapsedTime(float* ms, void* begin, void* end) {
  lock();
  const struct event *a = &events[(uintptr_t)begin], *b = &events[(uintptr_t)end];
  int result = fails("cuEventElapsedTime");
  if (!a->alive || !b->alive || a->device != b->device) result = INVALID_HANDLE, ++violations;
  if (result == 0 && !(is_over(a) && is_over(b))) result = NOT_READY, ++violations;
  *ms = (float)((double)(b->time - a->time) / 1e6);
  unlock();
  return result;
}
