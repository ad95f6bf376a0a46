#include "kineto/scanner.h"

#include <algorithm>
#include <cstring>

#include "common/error.h"

namespace tetrace::kineto {
namespace {

// A larger event is no event: a quote or bracket was lost in it.
constexpr std::ptrdiff_t largest_event_bytes = 4 << 20;
// Two events of PyTorch are never shorter.
constexpr std::ptrdiff_t least_two_events_bytes = 256;
constexpr std::ptrdiff_t largest_fact_bytes = 1 << 20;
constexpr std::ptrdiff_t largest_key_bytes = 1 << 16;
// What is added to a rest at a time: most events are shorter, and more is copied for nothing.
constexpr std::size_t least_added_bytes = 4096;
// White space between a line's beginning and the first key of its event.
constexpr std::ptrdiff_t largest_indent_bytes = 4096;

constexpr std::string_view byte_order_mark = "\xef\xbb\xbf";

bool is_fact(std::string_view key) {
  return key == "baseTimeNanoseconds" || key == "deviceProperties" || key == "distributedInfo";
}

enum class Match { yes, no, unknown };

// Whether the first key of the object at the brace `p` is `key`, which has its quotes.
Match begins_with(std::string_view key, const char* p, const char* end) {
  p = skip_space(p + 1, end);
  const std::string_view text(p, std::min(static_cast<std::size_t>(end - p), key.size()));
  if (text == key) return Match::yes;
  return text.size() < key.size() && key.substr(0, text.size()) == text ? Match::unknown : Match::no;
}

// Whether an event begins at the brace `p`: PyTorch writes ph first, and in metadata name.
Match begins_event(const char* p, const char* end) {
  const Match match = begins_with("\"ph\"", p, end);
  return match == Match::no ? begins_with("\"name\"", p, end) : match;
}

// Whether the event that ends at `stop` has lost a bracket and holds others: one of its lines begins like them.
bool holds_another(const char* p, const char* stop) {
  while ((p = static_cast<const char*>(std::memchr(p, '\n', static_cast<std::size_t>(stop - p)))) != nullptr) {
    p = skip_space(p, stop);
    if (p < stop && *p == '{' && begins_with("\"ph\"", p, stop) == Match::yes) return true;
  }
  return false;
}

bool is_one_event(const char* p, const char* stop) {
  return stop - p <= largest_event_bytes && (stop - p < least_two_events_bytes || !holds_another(p + 1, stop));
}

}  // namespace

void Scanner::feed(std::string_view piece) {
  piece.remove_prefix(complete_left(piece));
  if (piece.empty()) return;
  left_.assign(consume_text(piece));
}

// Adds as much of `piece` to what is left of those before as it takes to have it whole; returns how many bytes those
// are. The rest of a piece is never copied.
std::size_t Scanner::complete_left(std::string_view piece) {
  std::size_t taken = 0;
  while (!left_.empty() && taken < piece.size()) {
    const std::size_t before = left_.size();
    const std::string_view more = piece.substr(taken, std::max(before, least_added_bytes));
    left_ += more;
    taken += more.size();
    const std::size_t rest = consume_text(left_).size();
    if (rest <= more.size()) {
      left_.clear();
      return taken - rest;
    }
    left_.erase(0, left_.size() - rest);
  }
  return taken;
}

// Consumes what is whole of `text`, and returns the rest.
std::string_view Scanner::consume_text(std::string_view text) {
  text_ = text.data();
  const auto consumed = static_cast<std::size_t>(consume(text_, text_ + text.size()) - text_);
  text_offset_ += static_cast<std::int64_t>(consumed);
  return text.substr(consumed);
}

void Scanner::finish() {
  const auto length = text_offset_ + static_cast<std::int64_t>(left_.size());
  if (state_ == State::begin && left_.empty()) refuse("it is empty");
  // What looks like one long event may be one that lost a bracket, and whole ones behind it.
  while (state_ == State::events && !left_.empty()) {
    leave_out(left_.data());
    ++text_offset_;
    left_ = std::string(consume_text(std::string_view(left_).substr(1)));
  }
  recording_.close();
  is_unclosed_ = is_bare_list_ && state_ == State::events;
  if (state_ == State::finished || is_unclosed_) return;
  const bool in_events = state_ == State::events || state_ == State::resynchronize;
  refuse("it ends at byte ", length, " in the middle of its ", in_events ? "events" : "values");
}

// Consumes what is whole of [p, end); returns where the rest begins.
const char* Scanner::consume(const char* p, const char* end) {
  while (true) {
    if (!minds_space()) p = skip_space(p, end);
    if (p == end) return p;
    const char* next = step(p, end);
    if (next == nullptr) return p;
    p = next;
  }
}

// Whether white space means something in this state.
bool Scanner::minds_space() const {
  return state_ == State::resynchronize || state_ == State::skip_container || state_ == State::skip_string ||
         state_ == State::skip_scalar;
}

// One step of the state, forward in the text or to another state; nullptr when it needs more text than there is.
const char* Scanner::step(const char* p, const char* end) {
  switch (state_) {
    case State::begin: return step_begin(p, end);
    case State::key: return step_key(p, end);
    case State::colon:
      if (*p != ':') fail(p, "a ':' behind a key");
      state_ = State::value;
      return p + 1;
    case State::value: return step_value(p, end);
    case State::skip_container:
      if (skipped_.find(p, end) == ContainerEnd::Found::closed) state_ = State::key;
      return p;
    case State::skip_string: return step_skip_string(p, end);
    case State::skip_scalar:
      p = scalar_end(p, end);
      if (p < end) state_ = State::key;
      return p;
    case State::events: return step_events(p, end);
    case State::resynchronize: return step_resynchronize(p, end);
    case State::finished: fail(p, "nothing behind the trace");
  }
  return nullptr;
}

const char* Scanner::step_begin(const char* p, const char* end) {
  if (*p == byte_order_mark.front()) {
    if (static_cast<std::size_t>(end - p) < byte_order_mark.size()) return nullptr;
    if (std::string_view(p, byte_order_mark.size()) == byte_order_mark) return p + byte_order_mark.size();
  }
  if (*p != '{' && *p != '[') fail(p, "a '{' or '['");
  is_bare_list_ = *p == '[';
  has_events_list_ = is_bare_list_;
  state_ = is_bare_list_ ? State::events : State::key;
  return p + 1;
}

const char* Scanner::step_key(const char* p, const char* end) {
  if (*p == ',') return p + 1;
  if (*p == '}') {
    state_ = State::finished;
    return p + 1;
  }
  if (*p != '"') fail(p, "a key in quotes");
  bool has_escapes;
  const char* quote = string_end(p + 1, end, has_escapes);
  if (quote == nullptr) {
    if (end - p > largest_key_bytes) fail(p, "a key");
    return nullptr;
  }
  key_.assign(p + 1, quote);
  state_ = State::colon;
  return quote + 1;
}

const char* Scanner::step_value(const char* p, const char* end) {
  if (key_ == "traceEvents" && *p == '[') {
    has_events_list_ = true;
    state_ = State::events;
    return p + 1;
  }
  if (is_fact(key_)) return step_fact(p, end);
  skip(*p);
  return p + 1;
}

const char* Scanner::step_fact(const char* p, const char* end) {
  const char* stop = value_end(p, end);
  if (stop == p) fail(p, "a value");
  if (stop == nullptr || stop == end) {  // at the end of the text a number may go on
    if (end - p < largest_fact_bytes) return nullptr;
    skip(*p);
    return p + 1;
  }
  facts_[key_].assign(p, stop);
  state_ = State::key;
  return stop;
}

// Skips the value whose first byte is `first`.
void Scanner::skip(char first) {
  skipped_ = ContainerEnd();
  const bool is_container = first == '{' || first == '[';
  state_ = is_container ? State::skip_container : first == '"' ? State::skip_string : State::skip_scalar;
}

const char* Scanner::step_skip_string(const char* p, const char* end) {
  while (p < end && *p != '"') {
    if (*p == '\\') {
      // An escape that the next piece completes stays for it.
      if (end - p < 2) return nullptr;
      ++p;
    }
    ++p;
  }
  if (p == end) return p;
  state_ = State::key;
  return p + 1;
}

const char* Scanner::step_events(const char* p, const char* end) {
  if (*p == '{') return step_event(p, end);
  if (*p == ',') return p + 1;
  if (*p == ']') {
    state_ = is_bare_list_ ? State::finished : State::key;
    return p + 1;
  }
  const bool is_first = events_ == 0 && recording_.omissions().malformed == 0;
  if (is_first) fail(p, "an event");
  return leave_out(p);
}

const char* Scanner::leave_out(const char* p) {
  recording_.leave_out_malformed();
  state_ = State::resynchronize;
  return p + 1;
}

const char* Scanner::step_event(const char* p, const char* end) {
  const char* stop = p + 1;
  ContainerEnd finder(/*lines_end_strings=*/true);
  const ContainerEnd::Found found = finder.find(stop, end);
  if (found == ContainerEnd::Found::inside && end - p < largest_event_bytes) return nullptr;
  Event event;
  Reading reading = Reading::malformed;
  if (found == ContainerEnd::Found::closed && is_one_event(p, stop)) {
    reading = read_event({p, static_cast<std::size_t>(stop - p)}, end, event);
  }
  if (reading == Reading::malformed) return leave_out(p);
  ++events_;
  if (reading == Reading::wanted) recording_.add(event);
  return stop;
}

// PyTorch does not escape quotes in the names of Python frames, so that an event may seem to end anywhere. The next
// line that begins like an event is one.
const char* Scanner::step_resynchronize(const char* p, const char* end) {
  while (true) {
    const char* newline = static_cast<const char*>(std::memchr(p, '\n', static_cast<std::size_t>(end - p)));
    if (newline == nullptr) return p == end ? nullptr : end;
    const char* brace = skip_space(newline, end);
    const Match match = brace == end ? Match::unknown : *brace == '{' ? begins_event(brace, end) : Match::no;
    if (match == Match::yes) {
      state_ = State::events;
      return brace;
    }
    if (match == Match::unknown && end - newline < largest_indent_bytes) return newline == p ? nullptr : newline;
    p = newline + 1;
    if (p == end) return p;
  }
}

void Scanner::fail(const char* p, const char* expected) const {
  const auto byte = static_cast<unsigned char>(*p);
  const bool is_plain = byte > ' ' && byte < 0x7f;
  const std::string found = is_plain ? "'" + std::string(1, *p) + "'" : "the byte " + std::to_string(byte);
  refuse("at byte ", text_offset_ + (p - text_), " it has ", found, " instead of ", expected);
}

}  // namespace tetrace::kineto
