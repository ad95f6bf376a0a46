// The wanted events of a file as columns, one table a category.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "common/span.h"
#include "kineto/event.h"
#include "kineto/interner.h"

namespace tetrace::kineto {

constexpr std::int64_t absent = -1;

// What one event says. Not every category has a column for every field.
struct Row {
  std::int64_t start_ns = 0;
  std::int64_t end_ns = 0;
  std::int64_t thread = absent;  // row of Recording::threads
  std::int64_t name = 0;
  std::int64_t correlation = absent;
  std::int64_t sequence = absent;
  std::int64_t device = absent;
  std::int64_t stream = absent;
  std::int64_t graph_node = 0;
  std::int64_t bytes = absent;
  std::int64_t grid_x = absent, grid_y = absent, grid_z = absent;
  std::int64_t block_x = absent, block_y = absent, block_z = absent;
  std::int64_t registers = absent;
  std::int64_t shared_bytes = absent;
};

struct TableColumn {
  const char* name;
  std::int64_t Row::*field;
  std::variant<Column<std::int32_t>, Column<std::int64_t>> values;
};

struct Table {
  std::vector<TableColumn> columns;
  Interner names;
};

// Ids that are no numbers ("stream 7", "Spans") count upwards from here: no real id is so small.
constexpr std::int64_t first_text_id = INT64_MIN;

struct Thread {
  std::int64_t pid;
  std::int64_t tid;
};

// A thread_name or process_name event.
struct Naming {
  bool of_thread;
  std::int64_t pid;
  std::int64_t tid;
  std::string name;
};

// What was left out, and why.
struct Omissions {
  std::int64_t malformed = 0;  // no JSON
  std::int64_t untimed = 0;    // no start or duration that can be read
  std::int64_t unended = 0;    // a begin without its end, or an end without its begin
};

class Recording {
 public:
  Recording();

  void add(const Event& event);
  void leave_out_malformed() { ++omissions_.malformed; }
  // To be called after the last event: begins without an end are left out.
  void close();

  std::array<Table, category_count>& tables() { return tables_; }
  const std::vector<Thread>& threads() const { return threads_; }
  const std::vector<Naming>& namings() const { return namings_; }
  const std::vector<std::string>& text_ids() const { return text_ids_.words(); }
  const Omissions& omissions() const { return omissions_; }

 private:
  struct Open {
    Category category;
    Row row;
  };

  void add_naming(const Event& event);
  void add_complete(const Event& event);
  void begin(const Event& event);
  void end(const Event& event);

  void describe(const Event& event, Row& row);
  void append(Category category, const Row& row);
  std::string_view plain(const Text& text);
  std::int64_t id(const Text& text);
  std::int64_t thread(const Event& event);

  std::array<Table, category_count> tables_;
  std::vector<Thread> threads_;
  std::map<std::pair<std::int64_t, std::int64_t>, std::int64_t> thread_rows_;
  std::map<std::int64_t, std::vector<Open>> open_;  // by thread, innermost last
  std::vector<Naming> namings_;
  Interner text_ids_;
  Omissions omissions_;
  std::string scratch_;
};

}  // namespace tetrace::kineto
