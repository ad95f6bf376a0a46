#include "kineto/event.h"

#include <utility>

#include "kineto/json.h"

namespace tetrace::kineto {

Members::Members(std::string_view object, const char* readable_end)
    : p_(object.data() + 1), end_(object.data() + object.size() - 1), readable_end_(readable_end) {}

bool Members::next() {
  if (at_value_) value();
  if (malformed_) return false;
  p_ = skip_space(p_, end_);
  if (p_ < end_ && *p_ == ',') p_ = skip_space(p_ + 1, end_);
  if (p_ == end_) return false;
  if (*p_ != '"' || !read_key()) return fail();
  p_ = skip_space(p_, end_);
  if (p_ == end_ || *p_ != ':') return fail();
  p_ = skip_space(p_ + 1, end_);
  at_value_ = true;
  return p_ < end_ ? true : fail();
}

const Text& Members::value() {
  at_value_ = false;
  if (!read_value()) {
    value_ = {};
    fail();
  }
  return value_;
}

Text Members::rest() {
  at_value_ = false;
  const char* begin = std::exchange(p_, end_);
  const char* end = end_;
  while (end > begin && is_space(end[-1])) --end;
  return {{begin, static_cast<std::size_t>(end - begin)}, false};
}

bool Members::read_key() {
  Text key;
  if (!read_string(key)) return false;
  key_ = key.raw;
  if (key.has_escapes) {
    unescape(key.raw, plain_key_);
    key_ = plain_key_;
  }
  return true;
}

bool Members::read_string(Text& text) {
  const char* begin = p_ + 1;
  const char* quote = string_end(begin, readable_end_, text.has_escapes);
  if (quote == nullptr || quote >= end_) return false;
  text.raw = {begin, static_cast<std::size_t>(quote - begin)};
  p_ = quote + 1;
  return true;
}

bool Members::read_value() {
  if (*p_ == '"') return read_string(value_);
  const char* begin = p_;
  const char* end = value_end(begin, readable_end_);
  if (end == nullptr || end == begin || end > end_) return false;
  value_ = {{begin, static_cast<std::size_t>(end - begin)}, false};
  p_ = end;
  return true;
}

bool Members::fail() {
  malformed_ = true;
  return false;
}

namespace {

struct Spelling {
  std::string_view text;
  Category category;
};

// The first of each category is today's; those with a capital were written in 2021. Frequent ones come first.
constexpr Spelling spellings[] = {
    {"cpu_op", Category::op},
    {"python_function", Category::module},
    {"cuda_runtime", Category::runtime},
    {"kernel", Category::kernel},
    {"cuda_driver", Category::driver},
    {"gpu_memcpy", Category::memcpy},
    {"gpu_memset", Category::memset},
    {"user_annotation", Category::annotation},
    {"cuda_sync", Category::synchronization},
    {"overhead", Category::overhead},
    {"Operator", Category::op},
    {"Runtime", Category::runtime},
    {"Kernel", Category::kernel},
    {"Memcpy", Category::memcpy},
    {"Memset", Category::memset},
};

// Of the frames of Python, only the calls of modules are wanted: they come with every frame beneath them.
constexpr std::string_view module_prefix = "nn.Module: ";

Phase phase_of(std::string_view text) {
  if (text == "X" || text == "B" || text == "E" || text == "M") return static_cast<Phase>(text.front());
  return Phase::none;
}

bool is_wanted_name(const Event& event) {
  if (event.phase == Phase::metadata) return event.name.raw == "thread_name" || event.name.raw == "process_name";
  if (event.category != Category::module) return true;
  return event.name.raw.substr(0, module_prefix.size()) == module_prefix;
}

// What is known of an event while it is read.
struct Known {
  bool phase = false;
  bool category = false;
  bool name = false;
};

// Whether what is known decides that nobody wants the event. A begin or end counts whatever its category, because
// ends go to the innermost begin.
bool is_unwanted(const Event& event, const Known& known) {
  if (!known.phase) return false;
  if (event.phase == Phase::none) return true;
  if (event.phase == Phase::begin || event.phase == Phase::end) return false;
  if (event.phase == Phase::complete && known.category && event.category == Category::none) return true;
  return known.name && (known.category || event.phase == Phase::metadata) && !is_wanted_name(event);
}

// Whether nothing but its arguments can be missing: PyTorch writes them last, and half of an event is arguments.
bool is_complete(const Event& event, const Known& known) {
  return known.phase && known.category && known.name && !event.time.raw.empty() && !event.duration.raw.empty() &&
         !event.pid.raw.empty() && !event.tid.raw.empty();
}

// Takes one member; true when it can decide that nobody wants the event.
bool take(std::string_view key, const Text& value, Event& event, Known& known) {
  if (key == "ph") {
    event.phase = phase_of(value.raw);
    return known.phase = true;
  }
  if (key == "cat") {
    event.category = category_of(value.raw);
    return known.category = true;
  }
  if (key == "name") {
    event.name = value;
    return known.name = true;
  }
  if (key == "ts") event.time = value;
  else if (key == "dur") event.duration = value;
  else if (key == "pid") event.pid = value;
  else if (key == "tid") event.tid = value;
  else if (key == "args") event.arguments = value;
  return false;
}

}  // namespace

Category category_of(std::string_view text) {
  for (const Spelling& spelling : spellings) {
    if (spelling.text == text) return spelling.category;
  }
  return Category::none;
}

const char* name_of(Category category) {
  for (const Spelling& spelling : spellings) {
    if (spelling.category == category) return spelling.text.data();
  }
  return "";
}

Reading read_event(std::string_view object, const char* readable_end, Event& event) {
  event.readable_end = readable_end;
  Known known;
  Members members(object, readable_end);
  while (members.next()) {
    if (members.key() == "args" && is_complete(event, known)) {
      event.arguments = members.rest();
      break;
    }
    if (take(members.key(), members.value(), event, known) && is_unwanted(event, known)) return Reading::unwanted;
  }
  if (members.malformed()) return Reading::malformed;
  if (!is_wanted_name(event)) event.category = Category::none;
  const bool is_one_of_two = event.phase == Phase::begin || event.phase == Phase::end;
  const bool is_wanted = event.phase == Phase::metadata ? is_wanted_name(event) : event.category != Category::none;
  return is_wanted || is_one_of_two ? Reading::wanted : Reading::unwanted;
}

}  // namespace tetrace::kineto
