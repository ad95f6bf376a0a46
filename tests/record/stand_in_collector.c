/* A stand-in for libtetrace_collector.so where there is no GPU: it writes down which of its functions were called, one a
 * line, in the file that STAND_IN_LOG names, and says of itself what STAND_IN_STATE and STAND_IN_REASON hold. With
 * STAND_IN_RECORDS set, flushing leaves a cupti.bin with one kernel.
 *
 *     cc -shared -fPIC -o libtetrace_collector.so stand_in_collector.c
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char* state = "armed";
static int64_t opened, closed;

static int64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_REALTIME, &time);
  return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void note(const char* what, const char* detail) {
  const char* path = getenv("STAND_IN_LOG");
  if (path == NULL) return;
  char line[256];
  int length = snprintf(line, sizeof line, "%d %s%s%s\n", getpid(), what, *detail ? " " : "", detail);
  int file = open(path, O_WRONLY | O_CREAT | O_APPEND, 0644);
  if (file >= 0 && write(file, line, (size_t)length) < 0) abort();
  close(file);
}

struct kernel {
  int64_t start, end;
  uint64_t graph_node;
  uint32_t correlation, stream, device, context, name, graph, grid[3];
  uint16_t block[3], registers;
  uint32_t static_shared, dynamic_shared, unused;
};

struct event {
  int64_t at;
  uint32_t what, detail;
  uint64_t count;
};

static void frame(FILE* file, uint16_t kind, uint16_t row_bytes, uint32_t bytes, const void* payload) {
  static const char zeros[8];
  uint32_t magic = 0x4D415246, rows = 1;
  fwrite(&magic, 4, 1, file);
  fwrite(&kind, 2, 1, file);
  fwrite(&row_bytes, 2, 1, file);
  fwrite(&rows, 4, 1, file);
  fwrite(&bytes, 4, 1, file);
  fwrite(payload, 1, bytes, file);
  fwrite(zeros, 1, (8 - bytes % 8) % 8, file);
}

static void leave_a_kernel(void) {
  char path[4096];
  snprintf(path, sizeof path, "%s/process-%d", getenv("TETRACE_RECORDING"), getpid());
  mkdir(path, 0755);
  strncat(path, "/cupti.bin", sizeof path - strlen(path) - 1);
  FILE* file = fopen(path, "wb");
  if (file == NULL) return;
  const uint32_t version = 1, cupti = 130000;
  const int64_t about[2] = {getpid(), 0};
  fwrite("TETRCUP", 8, 1, file);
  fwrite(&version, 4, 1, file);
  fwrite(&cupti, 4, 1, file);
  fwrite(about, 8, 2, file);
  struct {
    uint32_t id, length;
    char text[8];
  } text = {0, 6, "_Z1kPf"};
  frame(file, 1, 0, sizeof text, &text);
  const struct event on = {opened, 1, 0xffffffff, 0}, off = {closed, 2, 0xffffffff, 0};
  frame(file, 10, sizeof on, sizeof on, &on);
  const struct kernel kernel = {.start = closed - 1000,
                                .end = closed,
                                .correlation = 7,
                                .grid = {1, 1, 1},
                                .block = {32, 1, 1},
                                .registers = 8};
  frame(file, 2, sizeof kernel, sizeof kernel, &kernel);
  frame(file, 10, sizeof off, sizeof off, &off);
  fclose(file);
}

int InitializeInjection(void) { return 1; }
int InitializeInjectionNvtx2(void* table) { return table != NULL; }

void tetrace_collector_start(void) {
  if (strcmp(state, "yielded") != 0) state = "recording";
  opened = now();
  note("start", "");
}

void tetrace_collector_stop(void) {
  closed = now();
  state = "armed";
  note("stop", "");
}

void tetrace_collector_flush(void) {
  note("flush", "");
  if (getenv("STAND_IN_RECORDS") != NULL) leave_a_kernel();
}

void tetrace_collector_yield(const char* who) {
  state = "yielded";
  note("yield", who);
}

void tetrace_collector_resume(void) {
  if (getenv("STAND_IN_KEPT") == NULL) state = "recording";
  note("resume", "");
}

const char* tetrace_collector_state(void) {
  static char said[512];
  const char *told = getenv("STAND_IN_STATE"), *reason = getenv("STAND_IN_REASON");
  if (reason == NULL) reason = getenv("STAND_IN_KEPT") != NULL ? "Kineto holds it" : "a reason";
  snprintf(said, sizeof said, "{\"state\": \"%s\", \"reason\": \"%s\", \"cupti\": 130000, \"library\": \"/x/libcupti.so\"}",
           told == NULL ? state : told, reason);
  return said;
}
