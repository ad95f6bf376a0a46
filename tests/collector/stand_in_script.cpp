// Stands in for a script on a GPU: loads the collector as the driver does, "launches", and ends in the way it is told to.
//
// stand_in_script LIBCUPTI COLLECTOR ACTION...
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <vector>

namespace {

void* cupti = nullptr;
void* collector = nullptr;

template <class... Arguments>
void call(void* library, const char* name, Arguments... arguments) {
  void* function = dlsym(library, name);
  if (function == nullptr) std::abort();
  reinterpret_cast<void (*)(Arguments...)>(function)(arguments...);
}

long memory_kilobytes() {
  long pages = 0, resident = 0;
  FILE* file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr || std::fscanf(file, "%ld %ld", &pages, &resident) != 2) std::abort();
  std::fclose(file);
  return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

void launch_from_threads(unsigned count) {
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([=] { call(cupti, "stand_in_launch", count / 4); });
  }
  for (std::thread& thread : threads) thread.join();
}

// 10,000 steps; prints how much the memory grew and how long a launch took in the first and the last tenth, in ns.
void launch_for_long(unsigned count) {
  const long before = memory_kilobytes();
  long most = before;
  std::vector<double> tenths;
  for (int tenth = 0; tenth < 10; ++tenth) {
    const auto start = std::chrono::steady_clock::now();
    for (int step = 0; step < 1000; ++step) call(cupti, "stand_in_launch", count / 10'000);
    tenths.push_back(std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count() * 10 / count);
    most = std::max(most, memory_kilobytes());
  }
  std::printf("%ld %.0f %.0f\n", most - before, tenths.front(), tenths.back());
}

void fork_child() {
  const pid_t child = fork();
  if (child == 0) {
    call(collector, "tetrace_collector_start");
    call(collector, "tetrace_collector_flush");
    call(collector, "tetrace_collector_stop");
    std::exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (status != 0) std::abort();
}

void limit_files(unsigned kilobytes) {
  rlimit limit{};
  getrlimit(RLIMIT_FSIZE, &limit);
  limit.rlim_cur = kilobytes * rlim_t{1024};
  setrlimit(RLIMIT_FSIZE, &limit);
}

// From here on permissions bind this process, also where root started it.
void be_nobody() {
  if (geteuid() == 0 && seteuid(65534) != 0) std::abort();
}

// Prints how long `stop` took in ms while another thread flushes to a slow disk, and how long the flush took.
void stop_while_flushing() {
  const auto begin = std::chrono::steady_clock::now();
  const auto since_ms = [&] {
    return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - begin).count();
  };
  std::thread flush([] { call(collector, "tetrace_collector_flush"); });
  usleep(200'000);
  const auto before = since_ms();
  call(collector, "tetrace_collector_stop");
  const auto stopped = since_ms() - before;
  flush.join();
  std::printf("%ld %ld\n", static_cast<long>(stopped), static_cast<long>(since_ms()));
}

// What another tool does that takes CUPTI's records: the buffers are its own, those of others it leaves alone.
void seize() {
  const auto give = [](std::uint8_t** buffer, std::size_t* bytes, std::size_t* most) {
    *bytes = std::size_t{1} << 20;
    *buffer = static_cast<std::uint8_t*>(std::calloc(1, *bytes));
    *most = 0;
  };
  const auto take = [](void*, std::uint32_t, std::uint8_t*, std::size_t, std::size_t) {};
  using Give = void (*)(std::uint8_t**, std::size_t*, std::size_t*);
  using Take = void (*)(void*, std::uint32_t, std::uint8_t*, std::size_t, std::size_t);
  call(cupti, "cuptiActivityRegisterCallbacks", static_cast<Give>(give), static_cast<Take>(take));
}

void print_state() {
  void* function = dlsym(collector, "tetrace_collector_state");
  std::puts(reinterpret_cast<const char* (*)()>(function)());
  std::fflush(stdout);
}

void act(const std::string& action, unsigned number) {
  if (action == "init") call(collector, "InitializeInjection");
  else if (action == "start") call(collector, "tetrace_collector_start");
  else if (action == "stop") call(collector, "tetrace_collector_stop");
  else if (action == "flush") call(collector, "tetrace_collector_flush");
  else if (action == "yield") call(collector, "tetrace_collector_yield", "torch.profiler");
  else if (action == "resume") call(collector, "tetrace_collector_resume");
  else if (action == "seize") seize();
  else if (action == "state") print_state();
  else if (action == "stop_while_flushing") stop_while_flushing();
  else if (action == "launch") call(cupti, "stand_in_launch", number);
  else if (action == "copy") call(cupti, "stand_in_copy", number);
  else if (action == "capture") call(cupti, "stand_in_capture", number);
  else if (action == "wait") call(cupti, "stand_in_wait", number);
  else if (action == "driver-wait") call(cupti, "stand_in_wait_of_driver", number);
  else if (action == "wait-on") call(cupti, "stand_in_wait_on", number);
  else if (action == "begin-wait") call(cupti, "stand_in_begin_wait");
  else if (action == "unfinished") call(cupti, "stand_in_unfinished");
  else if (action == "queue") call(cupti, "stand_in_queue", number);
  else if (action == "threads") launch_from_threads(number);
  else if (action == "long") launch_for_long(number);
  else if (action == "sleep") usleep(number * 1000);
  else if (action == "fork") fork_child();
  else if (action == "limit") limit_files(number);
  else if (action == "nobody") be_nobody();
  else if (action == "close") for (int file = 3; file < 64; ++file) close(file);
  else if (action == "_exit") _exit(0);
  else if (action == "abort") std::abort();
  else if (action == "kill") kill(getpid(), SIGKILL);
  else std::exit(64);
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) return 64;
  cupti = dlopen(arguments[1], RTLD_NOW);
  collector = dlopen(arguments[2], RTLD_NOW);
  const char* cuda = std::getenv("STAND_IN_CUDA");
  void* driver = cuda == nullptr || *cuda == 0 ? nullptr : dlopen(cuda, RTLD_NOW);
  if (cuda != nullptr && *cuda != 0 && driver == nullptr) return std::puts(dlerror()), 65;
  if (cupti == nullptr || collector == nullptr) return std::puts(dlerror()), 65;
  if (driver != nullptr) call(driver, "stand_in_tell", dlsym(cupti, "stand_in_driver_call"));
  for (int at = 3; at < count; ++at) {
    const std::string word = arguments[at];
    const std::size_t equals = word.find('=');
    act(word.substr(0, equals), equals == std::string::npos ? 0 : std::atoi(word.c_str() + equals + 1));
  }
}
