// Reads a Chrome trace from pieces of any size, keeping no more of it than one event and the columns.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "kineto/json.h"
#include "kineto/recording.h"

namespace tetrace::kineto {

class Scanner {
 public:
  // Throws std::invalid_argument, with the byte at which it is, when the text is no JSON that could be a trace.
  void feed(std::string_view piece);

  // To be called after the last piece. Throws when the text does not end where a trace ends.
  void finish();

  Recording& recording() { return recording_; }
  std::int64_t events() const { return events_; }
  bool has_events_list() const { return has_events_list_; }
  // A bare list of events may lack its closing bracket (Chrome's format allows it).
  bool is_unclosed() const { return is_unclosed_; }
  // JSON text of the few values beside the events that are wanted; the rest holds secrets and is never stored.
  const std::map<std::string, std::string>& facts() const { return facts_; }

 private:
  enum class State {
    begin, key, colon, value, skip_container, skip_string, skip_scalar, events, resynchronize, finished,
  };

  std::size_t complete_left(std::string_view piece);
  std::string_view consume_text(std::string_view text);
  const char* consume(const char* p, const char* end);
  bool minds_space() const;
  const char* step(const char* p, const char* end);
  const char* step_begin(const char* p, const char* end);
  const char* step_key(const char* p, const char* end);
  const char* step_value(const char* p, const char* end);
  const char* step_fact(const char* p, const char* end);
  const char* step_skip_string(const char* p, const char* end);
  const char* step_events(const char* p, const char* end);
  const char* step_event(const char* p, const char* end);
  // Counts the event at `p` as malformed, and looks for the next one.
  const char* leave_out(const char* p);
  const char* step_resynchronize(const char* p, const char* end);
  void skip(char first);
  [[noreturn]] void fail(const char* p, const char* expected) const;

  State state_ = State::begin;
  bool is_bare_list_ = false;
  bool has_events_list_ = false;
  bool is_unclosed_ = false;
  std::string key_;
  ContainerEnd skipped_;
  std::map<std::string, std::string> facts_;
  Recording recording_;
  std::int64_t events_ = 0;

  std::string left_;            // of the pieces so far: what is not whole yet
  const char* text_ = nullptr;  // what is being consumed, and where in the file it begins
  std::int64_t text_offset_ = 0;
};

}  // namespace tetrace::kineto
