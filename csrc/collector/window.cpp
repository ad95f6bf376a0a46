#include "collector/window.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "collector/options.h"

namespace tetrace::collector {

std::atomic<std::uint64_t> window{0};
std::atomic<bool> is_forked_child{false};

bool is_wanted() { return !is_forked_child.load(std::memory_order_relaxed) && !options().folder.empty(); }

std::string process_path() { return options().folder + "/process-" + std::to_string(getpid()); }

std::string process_folder() {
  if (!is_wanted()) return "";
  const std::string folder = process_path();
  if (mkdir(folder.c_str(), 0755) == 0) return folder;
  struct stat found {};
  return errno == EEXIST && stat(folder.c_str(), &found) == 0 && S_ISDIR(found.st_mode) ? folder : "";
}

void say(const std::string& line) {
  const std::string whole = "tetrace: " + line + "\n";
  if (write(STDERR_FILENO, whole.data(), whole.size()) < 0) return;  // nobody is there to read it
}

}  // namespace tetrace::collector
