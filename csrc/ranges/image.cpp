#include "ranges/image.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>

#if defined(__linux__)
#include <sys/auxv.h>
#else
#include <time.h>
#endif

#include "ranges/clock.h"
#include "ranges/ring.h"

namespace tetrace::ranges {
namespace {

constexpr int most_programs = 10'000;

std::uint64_t mixed(std::uint64_t bits) {
  bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9;
  bits = (bits ^ bits >> 27) * 0x94d049bb133111eb;
  return bits ^ bits >> 31;
}

// Differs from program to program, and is one for all libraries in it and for what it forks. Linux gives each program
// that it starts 16 random bytes. The guards of its stacks are made of them, so only a digest of half as much is shown.
std::uint64_t number_of_image() {
#if defined(__linux__)
  const auto* random = reinterpret_cast<const void*>(getauxval(AT_RANDOM));
  if (random == nullptr) return 0;
  std::uint64_t halves[2];
  std::memcpy(halves, random, sizeof halves);
  return mixed(mixed(halves[0]) + halves[1]);
#else
  // There is one library only that asks.
  return mixed(static_cast<std::uint64_t>(read_clock(CLOCK_REALTIME)));
#endif
}

std::string mark_of_image() {
  static const std::uint64_t number = number_of_image();
  char mark[32];
  std::snprintf(mark, sizeof mark, "/image-%016llx", static_cast<unsigned long long>(number));
  return mark;
}

bool is_there(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

// Whole or not at all, since the process may be killed: a folder with the mark in it takes its name, unless somebody
// else is faster. errno says why it failed.
bool claim(const std::string& recording, const std::string& folder, const std::string& mark) {
  const std::string partial =
      recording + "/.process-" + std::to_string(getpid()) + "-" + std::to_string(thread_number()) + ".partial";
  if (mkdir(partial.c_str(), 0755) != 0 && errno != EEXIST) return false;
  const int file = open((partial + mark).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (file >= 0) close(file);
  if (file >= 0 && rename(partial.c_str(), folder.c_str()) == 0) return true;
  const int error = errno;
  unlink((partial + mark).c_str());
  rmdir(partial.c_str());
  errno = error;
  return false;
}

}  // namespace

std::string process_folder(const std::string& recording) {
  const std::string stem = recording + "/process-" + std::to_string(getpid()), mark = mark_of_image();
  for (int number = 0; number < most_programs; ++number) {
    const std::string folder = stem + (number == 0 ? "" : "-" + std::to_string(number));
    int error = 0;
    if (!is_there(folder) && !claim(recording, folder, mark)) error = errno;
    // Asked last: another thread of this program may just have made it.
    if (is_there(folder + mark)) return folder;
    if (!is_there(folder)) return errno = error, "";
  }
  return errno = EEXIST, "";
}

}  // namespace tetrace::ranges
