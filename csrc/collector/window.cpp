#include "collector/window.h"

#include <unistd.h>

#include "collector/options.h"
#include "ranges/image.h"

namespace tetrace::collector {

std::atomic<std::uint64_t> window{0};
std::atomic<bool> is_forked_child{false};

bool is_wanted() { return !is_forked_child.load(std::memory_order_relaxed) && !options().folder.empty(); }

std::string process_folder() { return is_wanted() ? ranges::process_folder(options().folder) : ""; }

void say(const std::string& line) {
  const std::string whole = "tetrace: " + line + "\n";
  if (write(STDERR_FILENO, whole.data(), whole.size()) < 0) return;  // nobody is there to read it
}

}  // namespace tetrace::collector
