#include "collector/batch.h"

#include <cerrno>
#include <cstring>
#include <type_traits>

#include "collector/options.h"
#include "collector/window.h"

namespace tetrace::collector {
namespace {

// Devices and names of calls come once, and all later rows need them: those that cannot be written wait.
template <class Row>
bool is_said_once(const std::vector<Row>&) {
  return std::is_same_v<Row, DeviceRow> || std::is_same_v<Row, CallNameRow>;
}

}  // namespace

void Batch::use(const CuptiApi* api, const CallNames* calls) {
  if (api != api_ && api != nullptr) spill_.set_cupti(api->version);
  api_ = api;
  calls_ = calls;
}

bool Batch::is_recorded(std::uint16_t domain, std::uint32_t call, Rows& rows) {
  if (domain == driver_calls && call == calls_->canary()) ++answers_;
  if (!calls_->is_recorded(domain, call)) return false;
  if (named_.emplace(domain, call).second) {
    const char* name = calls_->name(domain, call);
    rows.call_names.push_back({domain, call, name == nullptr ? no_text : text_id(name), 0});
  }
  return true;
}

void Batch::add(const std::uint8_t* buffer, std::size_t used) {
  if (api_ == nullptr) return;
  std::uint8_t* record = nullptr;
  const std::uint8_t* last = buffer - 1;
  while (api_->cuptiActivityGetNextRecord(const_cast<std::uint8_t*>(buffer), used, &record) == cupti::success) {
    // A CUPTI that has ended already does not advance.
    if (record <= last || record + sizeof(std::uint32_t) > buffer + used) break;
    decode(record, *this, rows_);
    last = record;
  }
  if (rows_.incomplete > 0) {
    hand_over(Happened::dropped_here, "had not ended when CUPTI was asked for the last of it", rows_.incomplete);
    rows_.incomplete = 0;
  }
  const bool has_texts = write_texts();
  rows_.each([&](auto& rows) {
    const bool written = has_texts && write(rows);
    if (!written && is_said_once(rows)) return;
    if (!written) lose(rows.size());
    rows.clear();
  });
}

// Events are few and say what is missing: those that cannot be written wait.
void Batch::add(Handed handed) {
  constexpr std::size_t most_waiting = 4096;
  events_.insert(events_.end(), handed.events.begin(), handed.events.end());
  if (handed.unknown_streams > 0) {
    const std::uint32_t why = own_text_id("waits on streams that CUPTI does not know");
    events_.push_back({now_ns(), static_cast<std::uint32_t>(Happened::dropped_here), why, handed.unknown_streams});
  }
  if (events_.size() > most_waiting) events_.resize(most_waiting);
  const bool has_texts = write_texts();
  if (!has_texts || !write(handed.nodes)) handed.too_many += handed.nodes.size();
  if (!has_texts || !write(handed.waits)) handed.too_many += handed.waits.size();
  if (handed.too_many > 0) lose(handed.too_many);
  if (has_texts && write(events_)) events_.clear();
}

// Texts that are not in the file yet stay here, since later rows use them too.
bool Batch::write_texts() {
  std::uint32_t count = 0;
  const std::vector<char> fresh = take_new_texts(count);
  texts_.insert(texts_.end(), fresh.begin(), fresh.end());
  text_count_ += count;
  if (text_count_ == 0) return true;
  if (!after(spill_.write(Kind::text, 0, text_count_, texts_.data(), texts_.size()))) return false;
  texts_.clear();
  text_count_ = 0;
  return true;
}

template <class Row>
bool Batch::write(std::vector<Row>& rows) {
  return rows.empty() || after(spill_.write(rows.data(), rows.size()));
}

bool Batch::after(bool written) {
  if (written) {
    bytes_ = spill_.written_bytes();
  } else {
    say_once();
  }
  return written;
}

void Batch::say_once() {
  const int error = errno;
  const bool first = reason_.empty();
  reason_ = std::strerror(error);
  if (!first) return;
  const std::string path = spill_.path().empty() ? options().folder : spill_.path();
  say("'" + path + "' cannot be written: " + reason_ + "; what the GPU does meanwhile is not recorded, the script goes " +
      "on; make room there, or choose another folder with --output");
}

// The total stands at the head of the file, where there is always room for it.
void Batch::lose(std::uint64_t rows) {
  if (rows == 0) return;
  const std::uint64_t lost = lost_ += rows;
  spill_.note_loss({now_ns(), static_cast<std::uint32_t>(Happened::disk_full), own_text_id(reason_), lost});
}

}  // namespace tetrace::collector
