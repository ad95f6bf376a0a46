// From full buffers to frames in the file. One thread's, the writer's.
#pragma once

#include <atomic>
#include <cstdint>
#include <set>
#include <string>
#include <utility>

#include "collector/call_names.h"
#include "collector/decode.h"
#include "collector/handover.h"
#include "collector/spill.h"
#include "collector/texts.h"

namespace tetrace::collector {

class Batch : public Names {
 public:
  void use(const CuptiApi* api, const CallNames* calls);
  // Decodes one buffer and writes its rows.
  void add(const std::uint8_t* buffer, std::size_t used);
  // Writes what was handed over.
  void add(Handed handed);

  std::uint32_t text(const char* name) override { return names_.find(name); }
  bool is_recorded(std::uint16_t domain, std::uint32_t call, Rows& rows) override;

  std::uint64_t written_bytes() const { return bytes_.load(std::memory_order_relaxed); }
  // Records of the collector's own call (canary.h) that have come.
  std::uint64_t answers() const { return answers_; }
  std::uint64_t lost() const { return lost_.load(std::memory_order_relaxed); }

 private:
  bool write_texts();
  template <class Row>
  bool write(std::vector<Row>& rows);
  bool after(bool written);
  void say_once();
  void lose(std::uint64_t rows);

  Spill spill_;
  Rows rows_;
  NameCache names_;
  std::vector<EventRow> events_;
  std::vector<char> texts_;
  std::uint32_t text_count_ = 0;
  const CuptiApi* api_ = nullptr;
  const CallNames* calls_ = nullptr;
  std::set<std::pair<std::uint16_t, std::uint32_t>> named_;
  std::uint64_t answers_ = 0;
  std::string reason_;  // why the last frame could not be written
  // Read by other threads.
  std::atomic<std::uint64_t> bytes_{0};
  std::atomic<std::uint64_t> lost_{0};
};

}  // namespace tetrace::collector
