// Decoder, buffers, texts and file of the collector on synthetic records: no CUPTI, no GPU. Says what failed, and ends
// with 1 then.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "collector/activity_buffers.h"
#include "collector/batch.h"
#include "collector/callbacks.h"
#include "collector/canary.h"
#include "collector/decode.h"
#include "collector/launching_calls.h"
#include "collector/options.h"
#include "collector/spill.h"
#include "collector/surroundings.h"
#include "collector/texts.h"
#include "collector/window.h"
#include "collector/writer.h"
#include "ranges/ring.h"

using namespace tetrace::collector;
namespace ranges = tetrace::ranges;

namespace {
thread_local bool is_out_of_memory = false;
}

void* operator new(std::size_t bytes) {
  void* memory = is_out_of_memory ? nullptr : std::malloc(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

int failures = 0;

#define CHECK(condition)                                                         \
  do {                                                                           \
    if (!(condition)) {                                                          \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      ++failures;                                                                \
    }                                                                            \
  } while (false)

struct OnlyLaunches : Names {
  std::uint32_t text(const char* name) override { return name == nullptr ? no_text : static_cast<std::uint32_t>(*name); }
  bool is_recorded(std::uint16_t, std::uint32_t call, Rows&) override { return call == 211; }
};

// A record as it lies in CUPTI's buffer: no more than the bytes of the smallest version are there.
template <class Record>
std::vector<std::uint8_t> bytes_of(const Record& record) {
  const auto* from = reinterpret_cast<const std::uint8_t*>(&record);
  return {from, from + sizeof record};
}

template <class Record>
Rows decoded(const Record& record) {
  OnlyLaunches names;
  Rows rows;
  decode(bytes_of(record).data(), names, rows);
  return rows;
}

void test_kernel() {
  cupti::KernelRecord record{};
  record.kind = 10, record.registers = 255, record.start = 100, record.end = 250;
  record.device = 1, record.context = 2, record.stream = 3, record.correlation = 4;
  record.grid[0] = 70'000, record.grid[1] = 2, record.grid[2] = 1;
  record.block[0] = 1024, record.block[1] = 1, record.block[2] = 1;
  record.static_shared = 16, record.dynamic_shared = 200'000;
  record.name = "k", record.graph_node = 5, record.graph = 6;
  const Rows rows = decoded(record);
  CHECK(rows.kernels.size() == 1 && rows.incomplete == 0);
  const KernelRow& row = rows.kernels.at(0);
  CHECK(row.start == 100 && row.end == 250 && row.graph_node == 5 && row.graph == 6);
  CHECK(row.device == 1 && row.context == 2 && row.stream == 3 && row.correlation == 4 && row.name == 'k');
  CHECK(row.grid[0] == 70'000 && row.grid[1] == 2 && row.block[0] == 1024 && row.block[2] == 1);
  CHECK(row.registers == 255 && row.static_shared == 16 && row.dynamic_shared == 200'000);
}

void test_kernel_without_end() {
  cupti::KernelRecord record{};
  record.kind = 10, record.start = 100;
  const Rows rows = decoded(record);
  CHECK(rows.kernels.empty() && rows.incomplete == 1);
}

void test_copies() {
  cupti::MemcpyRecord copy{};
  copy.kind = 1, copy.copy_kind = 2, copy.source_kind = 3, copy.destination_kind = 1, copy.flags = 1;
  copy.bytes = 1ull << 40, copy.start = 1, copy.end = 2, copy.stream = 7, copy.correlation = 8, copy.graph_node = 9;
  cupti::MemcpyPeerRecord peer{};
  peer.kind = 22, peer.copy_kind = 10, peer.bytes = 5, peer.start = 3, peer.end = 4, peer.correlation = 11;
  cupti::MemsetRecord set{};
  set.kind = 2, set.value = 255, set.bytes = 6, set.start = 5, set.end = 6, set.correlation = 12;
  const MemcpyRow row = decoded(copy).memcpys.at(0);
  CHECK(row.copy_kind == 2 && row.source_kind == 3 && row.destination_kind == 1 && row.flags == 1);
  CHECK(row.bytes == 1ull << 40 && row.stream == 7 && row.correlation == 8 && row.graph_node == 9);
  CHECK(decoded(peer).memcpys.at(0).copy_kind == 10 && decoded(peer).memcpys.at(0).correlation == 11);
  CHECK(decoded(set).memsets.at(0).value == 255 && decoded(set).memsets.at(0).bytes == 6);
}

void test_calls() {
  cupti::CallRecord call{};
  call.kind = 5, call.call = 211, call.start = 1, call.end = 2, call.thread = 77, call.correlation = 3;
  CHECK(decoded(call).calls.at(0).domain == 0 && decoded(call).calls.at(0).thread == 77);
  call.kind = 4;
  CHECK(decoded(call).calls.at(0).domain == 1);
  call.call = 1;
  CHECK(decoded(call).calls.empty());
}

void test_the_rest() {
  cupti::SyncRecord sync{};
  sync.kind = 38, sync.type = 3, sync.start = 1, sync.end = 2, sync.event = 0xffffffff, sync.stream = 7;
  cupti::OverheadRecord overhead{};
  overhead.kind = 17, overhead.type = 65536, overhead.object_kind = 2, overhead.object_thread = 5;
  overhead.start = 1, overhead.end = 2;
  cupti::DeviceRecord device{};
  device.kind = 8, device.bandwidth_kilobytes_per_s = 4'800'000'000, device.memory_bytes = 1ull << 37;
  device.capability_major = 9, device.multiprocessors = 132, device.device = 3, device.name = "H";
  CHECK(decoded(sync).syncs.at(0).event == 0xffffffff && decoded(sync).syncs.at(0).type == 3);
  CHECK(decoded(overhead).overheads.at(0).thread == 5);
  CHECK(decoded(device).devices.at(0).bandwidth_bytes_per_s == 4'800'000'000'000);
  CHECK(decoded(device).devices.at(0).device == 3 && decoded(device).devices.at(0).name == 'H');
}

// Nothing reads behind a record, whatever is in it.
void test_any_bytes() {
  std::mt19937 random(7);
  OnlyLaunches names;
  Rows rows;
  for (int round = 0; round < 20'000; ++round) {
    std::vector<std::uint8_t> bytes(208);
    for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random());
    const std::uint32_t kind = random() % 52;
    std::memcpy(bytes.data(), &kind, sizeof kind);
    const void* name = nullptr;
    std::memcpy(bytes.data() + (kind == 8 ? offsetof(cupti::DeviceRecord, name) : offsetof(cupti::KernelRecord, name)),
                &name, sizeof name);
    decode(bytes.data(), names, rows);
  }
  CHECK(!rows.kernels.empty() && !rows.memcpys.empty() && rows.incomplete > 0);
}

void test_names_of_calls() {
  for (const char* name : {"cudaLaunchKernel_v7000", "cuLaunchKernelEx_ptsz", "__cudaLaunchKernel_v13000", "cuMemFree_v2",
                           "cudaGraphLaunch_v10000", "cudaMemcpyAsync_ptsz_v7000", "cudaMallocFromPoolAsync_v11020",
                           "cudaStreamSynchronize_v3020", "cuLibraryLoadData", "cuMemsetD32Async"}) {
    CHECK(is_launching_call(name));
  }
  for (const char* name : {"cudaGetDevice_v3020", "cuCtxGetCurrent", "cudaEventRecord_v3020", "cudaStreamIsCapturing_v10000",
                           "cuFuncGetAttribute", "cudaGraphInstantiate_v12000", "nvrtc", ""}) {
    CHECK(!is_launching_call(name));
  }
}

void test_options() {
  const std::string json = R"({"calls": "all","start" : "window", "n": 3})";
  CHECK(text_in_json(json, "calls") == "all" && text_in_json(json, "start") == "window");
  CHECK(text_in_json(json, "n").empty() && text_in_json(json, "none").empty() && text_in_json(R"({"calls)", "calls").empty());
}

void test_texts() {
  const std::uint32_t first = text_id("first");
  CHECK(text_id("first") == first && text_id("second") != first);
  CHECK((nvtx_text_id("first") & nvtx_text) != 0 && nvtx_text_id("first") == nvtx_text_id("first"));
  std::uint32_t count = 0;
  const std::vector<char> payload = take_new_texts(count);
  CHECK(count == 3 && payload.size() == (8 + 8) * 3 && std::string(payload.data() + 8, 5) == "first");
  CHECK(take_new_texts(count).empty() && count == 0);
  char name[] = "kernel_a";
  NameCache cache;
  const std::uint32_t before = cache.find(name);
  name[7] = 'b';  // another module's name at the address of one that is gone
  CHECK(cache.find(name) != before && cache.find(name) == text_id("kernel_b") && cache.find(nullptr) == no_text);
}

// Those of NVTX ranges, which may be new ones for ever, leave room for the names of kernels, and it is told.
void test_too_many_texts() {
  take_handed();
  const std::string long_text(std::size_t{1} << 16, 'x');
  std::size_t kept = 0;
  while (nvtx_text_id(std::to_string(kept) + long_text) != no_text) ++kept;
  CHECK(kept > 500 && kept <= most_text_bytes / ((std::size_t{1} << 16) + 128));
  CHECK(nvtx_text_id("one more" + long_text) == no_text && nvtx_text_id("0" + long_text) != no_text);
  CHECK(text_id("_Z6kernelv") != no_text);
  const std::vector<EventRow> events = take_handed().events;
  CHECK(events.size() == 1 && events[0].what == static_cast<std::uint32_t>(Happened::texts_full));
  CHECK(events.at(0).count == most_text_bytes && events.at(0).detail == own_text_id("NVTX ranges"));
  while (text_id("_Z" + std::to_string(kept++) + long_text) != no_text) {
  }
  CHECK(own_text_id("why it failed") != no_text);
  CHECK(take_handed().events.at(0).detail == own_text_id("kernels"));
}

void test_home_is_not_shown() {
  CHECK(without_home("no '/home/ann/lib.so:/home/ann' here") == "no '~/lib.so:~' here");
  CHECK(without_home("/home/anna /mnt/home/ann /home/ann-2") == "/home/anna /mnt/home/ann /home/ann-2");
}

void test_when_silence_is_a_loss() {
  using Next = Silence::Next;
  Silence silence;
  // The call is made until CUPTI is known to record it; silence before means nothing.
  for (int period = 1; period <= 5; ++period) CHECK(silence.next(0, 0, period) == Next::sing);
  CHECK(silence.next(0, 0, 6) == Next::nothing);
  CHECK(silence.next(2, 1, 7) == Next::nothing && silence.good_until_ns() == 6);
  // Where nothing is launched, each call is answered.
  CHECK(silence.next(2, 1, 8) == Next::sing);
  CHECK(silence.next(4, 2, 9) == Next::nothing && silence.good_until_ns() == 8);
  CHECK(silence.next(4, 2, 10) == Next::sing && silence.next(4, 2, 11) == Next::sing);
  silence.pause();
  CHECK(silence.next(4, 2, 12) == Next::nothing && silence.good_until_ns() == 12);
  CHECK(silence.next(4, 2, 13) == Next::sing && silence.next(4, 2, 14) == Next::sing);
  CHECK(silence.next(4, 2, 15) == Next::lost && silence.good_until_ns() == 12);
}

void test_users_of_a_library() {
  const std::vector<std::string> users = users_of_library("libc");
  CHECK(std::count(users.begin(), users.end(), "the program") == 1);
  CHECK(std::any_of(users.begin(), users.end(), [](const std::string& user) { return user.find("libm.so") == 0; }));
  CHECK(users_of_library("libcupti").empty() && users_of_library("lib").empty());
}

// Nobody waits for a writer that is no more, and no other is started.
void test_writer_that_throws() {
  static CuptiApi api;
  api.cuptiActivityGetNextRecord = [](std::uint8_t*, std::size_t, std::uint8_t**) -> cupti::Result {
    throw std::runtime_error("a record that cannot be");
  };
  api.cuptiGetCallbackName = [](std::uint32_t, std::uint32_t, const char**) -> cupti::Result { return 1; };
  api.cuptiActivityGetNumDroppedRecords = [](void*, std::uint32_t, std::size_t*) -> cupti::Result { return 1; };
  static const CallNames calls(api, true);
  decode_with(api, calls);
  const int errors = dup(STDERR_FILENO), nowhere = open("/dev/null", O_WRONLY);
  CHECK(start_writer() && writer_failure().empty());
  dup2(nowhere, STDERR_FILENO);
  CHECK(activity_buffers().fill(activity_buffers().take(), 8) && wake_writer());
  const auto before = std::chrono::steady_clock::now();
  const bool written = wait_for_writer(30'000);
  CHECK(!written && std::chrono::steady_clock::now() - before < std::chrono::seconds(10));
  CHECK(!start_writer() && !wake_writer() && writer_failure().find("a record that cannot be") != std::string::npos);
  dup2(errors, STDERR_FILENO);
  close(errors);
  close(nowhere);
}

// Rings.

bool asked = false;
bool ask() { return asked = true; }
bool ask_nobody() { return false; }

std::size_t size_of(const std::string& path) {
  struct stat found {};
  return stat(path.c_str(), &found) == 0 ? static_cast<std::size_t>(found.st_size) : 0;
}

ranges::Place append(ranges::Ring& ring) { return ring.append({1, 0, -1, 7, 0, 0, 0}); }

// How many rows it takes until one is dropped, at most `most`.
std::size_t fill(ranges::Ring& ring, std::size_t most) {
  std::size_t rows = 0;
  while (rows < most && append(ring).slot != ranges::no_slot) ++rows;
  return rows;
}

constexpr std::size_t rows_in_mebibyte = (std::size_t{1} << 20) / sizeof(ranges::Row);

void test_ring_that_another_thread_extends(const std::string& folder) {
  const auto ring = ranges::Ring::create(folder, std::size_t{1} << 26, 1e9, "ahead", ask);
  CHECK(ring != nullptr && asked);
  CHECK(fill(*ring, 1'000'000) == rows_in_mebibyte);
  asked = false;
  ranges::Place dropped = append(*ring);
  CHECK(dropped.slot == ranges::no_slot && asked);
  ring->extend_ahead();
  CHECK(size_of(ring->path()) > (std::size_t{2} << 20));
  ring->end_row(dropped, {1, 2, -1, 8, 0, 0, 0});  // there is room by now
  CHECK(fill(*ring, 1'000'000) >= rows_in_mebibyte - 1);
  ring->close(true);
  const std::size_t whole = size_of(ring->path());
  asked = true;
  ring->extend_ahead();
  CHECK(size_of(ring->path()) == whole);
}

void test_ring_whose_extending_thread_is_gone(const std::string& folder) {
  const auto ring = ranges::Ring::create(folder, std::size_t{1} << 26, 1e9, "alone", ask_nobody);
  CHECK(fill(*ring, 200'000) == 200'000 && size_of(ring->path()) > 200'000 * sizeof(ranges::Row));
}

// SIGXFSZ would end this program.
void test_ring_under_a_limit(const std::string& folder) {
  std::signal(SIGXFSZ, SIG_DFL);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit limit{100'000, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &limit);
  const auto alone = ranges::Ring::create(folder, std::size_t{1} << 26, 1e9, "limited");
  const auto helped = ranges::Ring::create(folder, std::size_t{1} << 26, 1e9, "helped", ask);
  for (const auto& ring : {alone.get(), helped.get()}) {
    CHECK(ring != nullptr);
    ring->extend_ahead();
    CHECK(fill(*ring, 50'000) == 50'000);
    ring->close(true);
    CHECK(size_of(ring->path()) <= 100'000 && size_of(ring->path()) > 90'000);
  }
  const rlimit nothing{1000, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &nothing);
  CHECK(ranges::Ring::create(folder, std::size_t{1} << 26, 1e9, "none") == nullptr);
  setrlimit(RLIMIT_FSIZE, &before);
}

void test_buffers() {
  ActivityBuffers buffers;
  buffers.prepare();
  std::vector<std::uint8_t*> taken;
  while (std::uint8_t* memory = buffers.take()) taken.push_back(memory);
  CHECK(taken.size() == ActivityBuffers::most);
  taken[0][5] = 1;
  CHECK(buffers.fill(taken[0], 6) && !buffers.fill(taken[1], 0));
  std::uint8_t foreign = 0;
  CHECK(!buffers.fill(&foreign, 1) && !buffers.fill(taken[0], 6));
  const std::vector<FullBuffer> full = buffers.full();
  CHECK(full.size() == 1 && full[0].memory == taken[0] && full[0].used == 6 && buffers.full().empty());
  CHECK(buffers.take() == taken[1] && buffers.take() == nullptr);
  buffers.give_back(taken[0]);
  CHECK(buffers.take() == taken[0] && taken[0][5] == 0);
  buffers.write_off();
  CHECK(buffers.take() != nullptr);
}

// The PyTorch profiler takes CUPTI over again and again, which keeps a buffer each time, or gives it back late.
void test_buffers_that_never_come_back() {
  ActivityBuffers buffers;
  std::vector<std::uint8_t*> kept;
  for (int cycle = 0; cycle < 200; ++cycle) {
    kept.push_back(buffers.take());
    buffers.write_off();
  }
  CHECK(std::count(kept.begin(), kept.end(), nullptr) == 0);
  std::uint8_t* next = buffers.take();
  CHECK(next != nullptr && buffers.fill(next, 8) && buffers.fill(kept[0], 8) && !buffers.fill(kept[0], 8));
  const std::vector<FullBuffer> full = buffers.full();
  CHECK(full.size() == 2 && full[1].memory == kept[0]);
}

BufferRequested give = nullptr;
BufferCompleted take_back = nullptr;

std::uint8_t* given() {
  std::uint8_t* memory = nullptr;
  std::size_t bytes = 0, most = 0;
  give(&memory, &bytes, &most);
  CHECK(bytes == (memory == nullptr ? 0 : ActivityBuffers::buffer_bytes));
  return memory;
}

// As CUPTI calls, inside a call of the script's.
void test_no_memory_for_buffers() {
  is_out_of_memory = true;
  CHECK(given() == nullptr);
  is_out_of_memory = false;
  std::uint8_t* memory = given();
  CHECK(memory != nullptr);
  is_out_of_memory = true;
  take_back(nullptr, 0, memory, ActivityBuffers::buffer_bytes, 8);
  is_out_of_memory = false;
  const std::vector<FullBuffer> full = activity_buffers().full();
  CHECK(full.size() == 1 && full[0].memory == memory);
  activity_buffers().give_back(memory);
}

// Forked while other threads are given buffers, some of them with the lock held.
void test_forked_child_gets_no_buffer() {
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 3; ++thread) {
    threads.emplace_back([&] {
      while (!done) {
        if (std::uint8_t* memory = given()) take_back(nullptr, 0, memory, ActivityBuffers::buffer_bytes, 0);
      }
    });
  }
  int ended_well = 0;
  for (int child = 0; child < 50 && ended_well == child; ++child) {
    const pid_t number = fork();
    if (number == 0) {
      is_forked_child = true;  // as the collector's own handler does
      alarm(10);
      std::uint8_t mine = 0;
      const bool has_none = given() == nullptr;
      take_back(nullptr, 0, &mine, 1, 1);
      _exit(has_none ? 0 : 1);
    }
    int status = 1;
    if (waitpid(number, &status, 0) == number && status == 0) ++ended_well;
  }
  done = true;
  for (std::thread& thread : threads) thread.join();
  CHECK(ended_well == 50);
}

void test_what_cupti_calls_for_buffers() {
  CuptiApi api;
  api.cuptiActivityRegisterCallbacks = [](BufferRequested requested, BufferCompleted completed) {
    give = requested, take_back = completed;
    return cupti::success;
  };
  register_buffers(api);
  test_no_memory_for_buffers();
  test_forked_child_gets_no_buffer();
}

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void test_file(const std::string& folder) {
  mkdir((folder + "/process-1").c_str(), 0755);
  Spill spill(folder + "/process-1");
  const EventRow event{1, 2, no_text, 3};
  CHECK(spill.write(Kind::text, 0, 1, "\1\0\0\0\1\0\0\0a\0\0\0", 12));
  CHECK(spill.write(&event, 1));
  spill.set_cupti(130000);
  CHECK(spill.note_loss({4, 8, no_text, 5}));
  const std::string bytes = contents(spill.path());
  constexpr std::size_t head = sizeof(FileHeader), frame = sizeof(FrameHeader), row = sizeof(EventRow);
  CHECK(bytes.size() == head + (frame + row) + (frame + 16) + (frame + row) && bytes.size() == spill.written_bytes());
  FileHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  CHECK(header.cupti == 130000 && header.process == getpid() && header.version == file_version);
  EventRow loss;
  std::memcpy(&loss, bytes.data() + head + frame, sizeof loss);
  CHECK(loss.what == 8 && loss.count == 5);
  CHECK(std::memcmp(bytes.data() + bytes.size() - row, &event, row) == 0);
}

// Numbers of texts of two writers would be mixed.
void test_second_writer(const std::string& folder) {
  mkdir((folder + "/process-2").c_str(), 0755);
  Spill first(folder + "/process-2"), second(folder + "/process-2");
  const EventRow event{};
  CHECK(first.write(&event, 1) && !second.write(&event, 1) && errno == EEXIST && second.path().empty());
}

void test_full_disk(const std::string& folder) {
  mkdir((folder + "/process-3").c_str(), 0755);
  Spill spill(folder + "/process-3");
  const std::vector<NodeRow> rows(1000);
  CHECK(spill.write(rows.data(), rows.size()));
  const std::uint64_t whole = spill.written_bytes();
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit limit{whole + 100, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &limit);
  CHECK(!spill.write(rows.data(), rows.size()) && spill.written_bytes() == whole);
  CHECK(spill.note_loss({4, 8, no_text, 1000}));
  CHECK(contents(spill.path()).size() == whole);
  setrlimit(RLIMIT_FSIZE, &before);
  CHECK(spill.write(rows.data(), rows.size()) && contents(spill.path()).size() == spill.written_bytes());
}

void test_no_folder() {
  Spill spill("/proc/none/process-4");
  const EventRow event{};
  CHECK(!spill.write(&event, 1) && spill.path().empty() && !spill.note_loss(event));
}

}  // namespace

int main() {
  setenv("HOME", "/home/ann/", 1);
  test_kernel();
  test_kernel_without_end();
  test_copies();
  test_calls();
  test_the_rest();
  test_any_bytes();
  test_names_of_calls();
  test_options();
  test_texts();
  test_too_many_texts();
  test_home_is_not_shown();
  test_when_silence_is_a_loss();
  test_users_of_a_library();
  test_writer_that_throws();
  test_buffers();
  test_buffers_that_never_come_back();
  test_what_cupti_calls_for_buffers();
  char folder[] = "/tmp/tetrace-collector-XXXXXX";
  if (mkdtemp(folder) == nullptr) return 2;
  test_file(folder);
  test_second_writer(folder);
  test_full_disk(folder);
  test_no_folder();
  test_ring_that_another_thread_extends(folder);
  test_ring_whose_extending_thread_is_gone(folder);
  test_ring_under_a_limit(folder);
  const std::string remove = "rm -r " + std::string(folder);
  if (std::system(remove.c_str()) != 0) return 2;
  return failures == 0 ? 0 : 1;
}
