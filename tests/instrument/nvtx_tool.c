/* An NVTX tool: it keeps every event of every domain in memory and, when the process ends, writes them as lines to the
 * file that NVTX_TOOL_LOG names. Declares by itself the few types of NVTX's interface for tools that it needs.
 *
 *     cc -O2 -shared -fPIC -o libtool.so nvtx_tool.c
 *     NVTX_INJECTION64_PATH=libtool.so NVTX_TOOL_LOG=events.txt python ...
 */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { CORE2 = 5, CALLBACKS = 1 };
enum { RANGE_START = 2, RANGE_END = 3, RANGE_PUSH = 4, RANGE_POP = 5, REGISTER_STRING = 10, DOMAIN_CREATE = 12 };
enum { PAYLOAD_UINT64 = 1, MESSAGE_REGISTERED = 3 };

typedef struct {
  uint16_t version, size;
  uint32_t category;
  int32_t color_type;
  uint32_t color;
  int32_t payload_type, reserved;
  uint64_t payload;
  int32_t message_type;
  const void* message;
} Attributes;

typedef struct {
  size_t size;
  int (*functions)(int module, void**** table, unsigned* count);
} Callbacks;

typedef struct {
  const char* what;
  const char* domain;
  const char* name;
  uint64_t payload, range;
  int64_t ns;
  uint32_t category;
  int thread;
} Event;

#define MOST (1u << 18)
static Event events[MOST];
static atomic_uint used;

static __thread int thread;

static Event* note(const char* what, const char* domain) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  if (thread == 0) thread = (int)syscall(SYS_gettid);
  Event* event = &events[atomic_fetch_add(&used, 1) % MOST];
  *event = (Event){what, domain, "", 0, 0, now.tv_sec * 1000000000LL + now.tv_nsec, 0, thread};
  return event;
}

static Event* note_range(const char* what, const char* domain, const Attributes* given) {
  Event* event = note(what, domain);
  event->category = given->category;
  if (given->payload_type == PAYLOAD_UINT64) event->payload = given->payload;
  event->name = given->message_type == MESSAGE_REGISTERED ? (const char*)given->message : "(not registered)";
  return event;
}

static void* domain_create(const char* name) {
  note("domain", name);
  return strdup(name);
}

static void* register_string(void* domain, const char* text) {
  char* kept = strdup(text);
  note("string", domain)->name = kept;
  return kept;
}

static int range_push(void* domain, const Attributes* given) { return note_range("push", domain, given) == NULL; }

static int range_pop(void* domain) { return note("pop", domain) == NULL; }

static uint64_t range_start(void* domain, const Attributes* given) {
  static atomic_ullong ranges;
  return note_range("start", domain, given)->range = atomic_fetch_add(&ranges, 1) + 1;
}

static void range_end(void* domain, uint64_t range) { note("end", domain)->range = range; }

__attribute__((destructor)) static void write_log(void) {
  const char* path = getenv("NVTX_TOOL_LOG");
  FILE* file = path == NULL || used == 0 ? NULL : fopen(path, "a");
  if (file == NULL) return;
  for (unsigned at = 0; at < used && at < MOST; ++at) {
    const Event* event = &events[at];
    fprintf(file, "%s\t%s\t%d\t%d\t%u\t%llu\t%llu\t%s\n", event->what, event->domain, (int)getpid(), event->thread,
            event->category, (unsigned long long)event->payload, (unsigned long long)event->range, event->name);
  }
  fclose(file);
}

__attribute__((visibility("default"))) int InitializeInjectionNvtx2(const void* (*export_table)(uint32_t)) {
  const Callbacks* callbacks = export_table(CALLBACKS);
  void*** table = NULL;
  unsigned count = 0;
  if (callbacks == NULL || !callbacks->functions(CORE2, &table, &count) || count <= DOMAIN_CREATE) return 0;
  *table[DOMAIN_CREATE] = (void*)domain_create;
  *table[REGISTER_STRING] = (void*)register_string;
  *table[RANGE_PUSH] = (void*)range_push;
  *table[RANGE_POP] = (void*)range_pop;
  *table[RANGE_START] = (void*)range_start;
  *table[RANGE_END] = (void*)range_end;
  return 1;
}
