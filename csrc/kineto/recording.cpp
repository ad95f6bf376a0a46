#include "kineto/recording.h"

#include <limits>

#include "kineto/json.h"

namespace tetrace::kineto {
namespace {

enum class Width { int32, int64 };

struct Declared {
  const char* name;
  std::int64_t Row::*field;
  Width width;
};

using Declarations = std::vector<Declared>;

Declarations operator+(Declarations left, const Declarations& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

// Column names are those of tetrace/trace/schema.py.
Declarations columns_of(Category category) {
  const Declarations all = {
      {"start_ns", &Row::start_ns, Width::int64},
      {"end_ns", &Row::end_ns, Width::int64},
      {"name", &Row::name, Width::int32},
  };
  const Declarations correlation = {{"correlation", &Row::correlation, Width::int64}};
  const Declarations host = all + Declarations{{"thread", &Row::thread, Width::int32}};
  const Declarations gpu = all + correlation +
                           Declarations{
                               {"device", &Row::device, Width::int32},
                               {"stream", &Row::stream, Width::int64},
                           };
  const Declarations work = gpu + Declarations{
                                      {"graph_node", &Row::graph_node, Width::int64},
                                      {"bytes", &Row::bytes, Width::int64},
                                  };
  const Declarations geometry = {
      {"grid_x", &Row::grid_x, Width::int32},       {"grid_y", &Row::grid_y, Width::int32},
      {"grid_z", &Row::grid_z, Width::int32},       {"block_x", &Row::block_x, Width::int32},
      {"block_y", &Row::block_y, Width::int32},     {"block_z", &Row::block_z, Width::int32},
      {"registers", &Row::registers, Width::int32}, {"shared_bytes", &Row::shared_bytes, Width::int32},
  };
  switch (category) {
    case Category::kernel: return work + geometry;
    case Category::memcpy:
    case Category::memset: return work;
    case Category::synchronization: return gpu;
    case Category::runtime:
    case Category::driver: return host + correlation;
    case Category::op: return host + Declarations{{"sequence", &Row::sequence, Width::int64}};
    default: return host;
  }
}

bool is_on_gpu(Category category) {
  return category == Category::kernel || category == Category::memcpy || category == Category::memset ||
         category == Category::synchronization;
}

bool has_arguments(Category category) {
  return is_on_gpu(category) || category == Category::runtime || category == Category::driver ||
         category == Category::op;
}

struct Argument {
  std::string_view key;
  std::int64_t Row::*field;
};

constexpr Argument arguments[] = {
    {"correlation", &Row::correlation},
    {"device", &Row::device},
    {"inDevice", &Row::device},  // copies between devices
    {"stream", &Row::stream},
    {"Sequence number", &Row::sequence},
    {"registers per thread", &Row::registers},
    {"shared memory", &Row::shared_bytes},
    {"bytes", &Row::bytes},
    {"graph node id", &Row::graph_node},
};

using Fields = std::array<std::int64_t Row::*, 3>;
constexpr Fields grid = {&Row::grid_x, &Row::grid_y, &Row::grid_z};
constexpr Fields block = {&Row::block_x, &Row::block_y, &Row::block_z};

bool integer(std::string_view text, std::int64_t& value) { return scaled_integer(text, 0, value); }

// Microseconds with decimals as nanoseconds.
bool nanoseconds(const Text& text, std::int64_t& value) { return scaled_integer(text.raw, 3, value); }

// `[x, y, z]`.
void read_dimensions(std::string_view array, const Fields& fields, Row& row) {
  const char* p = array.data();
  const char* end = p + array.size();
  for (const auto field : fields) {
    p = skip_space(p < end ? p + 1 : end, end);  // behind the bracket or comma
    const char* stop = scalar_end(p, end);
    integer({p, static_cast<std::size_t>(stop - p)}, row.*field);
    p = skip_space(stop, end);
  }
}

void read_argument(std::string_view key, std::string_view value, Row& row) {
  for (const Argument& argument : arguments) {
    if (argument.key == key) {
      integer(value, row.*argument.field);
      return;
    }
  }
  if (key == "grid") read_dimensions(value, grid, row);
  if (key == "block") read_dimensions(value, block, row);
}

bool is_object(const Text& text) {
  return text.raw.size() > 1 && text.raw.front() == '{' && text.raw.back() == '}';
}

void read_arguments(const Event& event, Row& row) {
  if (!is_object(event.arguments)) return;
  Members members(event.arguments.raw, event.readable_end);
  // The shapes behind an operator's sequence number are long, and nobody reads them.
  const bool is_operator = event.category == Category::op;
  while (!(is_operator && row.sequence != absent) && members.next()) {
    read_argument(members.key(), members.value().raw, row);
  }
}

std::int32_t narrowed(std::int64_t value) {
  using Limits = std::numeric_limits<std::int32_t>;
  return value < Limits::min() || value > Limits::max() ? absent : static_cast<std::int32_t>(value);
}

}  // namespace

Recording::Recording() {
  for (int i = 0; i < category_count; ++i) {
    for (const Declared& declared : columns_of(static_cast<Category>(i))) {
      TableColumn column{declared.name, declared.field, Column<std::int64_t>()};
      if (declared.width == Width::int32) column.values = Column<std::int32_t>();
      tables_[i].columns.push_back(std::move(column));
    }
  }
}

void Recording::add(const Event& event) {
  switch (event.phase) {
    case Phase::complete: return add_complete(event);
    case Phase::begin: return begin(event);
    case Phase::end: return end(event);
    case Phase::metadata: return add_naming(event);
    case Phase::none: return;
  }
}

void Recording::close() {
  for (const auto& [thread, open] : open_) {
    for (const Open& left : open) omissions_.unended += left.category != Category::none;
  }
  open_.clear();
}

void Recording::add_naming(const Event& event) {
  if (!is_object(event.arguments)) return;
  Members members(event.arguments.raw, event.readable_end);
  while (members.next()) {
    if (members.key() != "name") continue;
    const std::string name(plain(members.value()));
    namings_.push_back({event.name.raw == "thread_name", id(event.pid), id(event.tid), name});
  }
}

void Recording::add_complete(const Event& event) {
  Row row;
  std::int64_t duration = 0;
  const bool timed = nanoseconds(event.time, row.start_ns) && nanoseconds(event.duration, duration) && duration >= 0 &&
                     !__builtin_add_overflow(row.start_ns, duration, &row.end_ns);
  if (!timed) {
    ++omissions_.untimed;
    return;
  }
  describe(event, row);
  append(event.category, row);
}

void Recording::begin(const Event& event) {
  Open open{event.category, {}};
  if (!nanoseconds(event.time, open.row.start_ns)) {
    omissions_.untimed += event.category != Category::none;
    open.category = Category::none;  // its end still closes it
  }
  if (open.category != Category::none) describe(event, open.row);
  open_[thread(event)].push_back(open);
}

void Recording::end(const Event& event) {
  std::vector<Open>& stack = open_[thread(event)];
  if (stack.empty()) {
    ++omissions_.unended;
    return;
  }
  Open open = stack.back();
  stack.pop_back();
  if (open.category == Category::none) return;
  if (!nanoseconds(event.time, open.row.end_ns) || open.row.end_ns < open.row.start_ns) {
    ++omissions_.untimed;
    return;
  }
  append(open.category, open.row);
}

void Recording::describe(const Event& event, Row& row) {
  row.name = tables_[static_cast<int>(event.category)].names.code(plain(event.name));
  if (is_on_gpu(event.category)) {
    // The pid of a GPU event is its device, the tid its stream; the arguments say so too, and they decide.
    integer(event.pid.raw, row.device);
    integer(event.tid.raw, row.stream);
  } else {
    row.thread = thread(event);
  }
  if (has_arguments(event.category)) read_arguments(event, row);
}

void Recording::append(Category category, const Row& row) {
  for (TableColumn& column : tables_[static_cast<int>(category)].columns) {
    const std::int64_t value = row.*column.field;
    if (auto* narrow = std::get_if<Column<std::int32_t>>(&column.values)) {
      narrow->push_back(narrowed(value));
    } else {
      std::get<Column<std::int64_t>>(column.values).push_back(value);
    }
  }
}

std::string_view Recording::plain(const Text& text) {
  if (!text.has_escapes) return text.raw;
  unescape(text.raw, scratch_);
  return scratch_;
}

std::int64_t Recording::id(const Text& text) {
  std::int64_t value = 0;
  return integer(text.raw, value) ? value : first_text_id + text_ids_.code(plain(text));
}

std::int64_t Recording::thread(const Event& event) {
  const std::pair<std::int64_t, std::int64_t> key{id(event.pid), id(event.tid)};
  const auto [found, added] = thread_rows_.try_emplace(key, static_cast<std::int64_t>(threads_.size()));
  if (added) threads_.push_back({key.first, key.second});
  return found->second;
}

}  // namespace tetrace::kineto
