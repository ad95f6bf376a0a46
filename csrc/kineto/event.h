// One event of a Chrome trace, as it stands in the file.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tetrace::kineto {

// A value: of a string, what is between its quotes.
struct Text {
  std::string_view raw;
  bool has_escapes = false;
};

// The members of an object, one after the other, in the order of the file.
class Members {
 public:
  // `object` begins with its opening and ends with its closing brace. Memory up to `readable_end` may be read: what
  // is looked for in blocks is found faster when there is a whole one.
  Members(std::string_view object, const char* readable_end);

  // Moves to the next member and reads its key; false at the end, and where the text is no JSON.
  bool next();

  std::string_view key() const { return key_; }
  // The value of this member; empty where it is no JSON.
  const Text& value();
  // The value of this member and all behind it: its end is not looked for.
  Text rest();
  bool malformed() const { return malformed_; }

 private:
  bool read_key();
  bool read_string(Text& text);
  bool read_value();
  bool fail();

  const char* p_;
  const char* end_;  // of what is inside the braces
  const char* readable_end_;
  std::string_view key_;
  std::string plain_key_;  // of a key that has escapes
  Text value_;
  bool at_value_ = false;  // p_ is at the value of the member
  bool malformed_ = false;
};

enum class Category : std::uint8_t {
  kernel, memcpy, memset, runtime, driver, op, annotation, module, overhead, synchronization, none,
};
constexpr int category_count = static_cast<int>(Category::none);

// The category that PyTorch writes as `text`, in the spelling of any of its versions.
Category category_of(std::string_view text);

// What PyTorch writes today for `category`.
const char* name_of(Category category);

enum class Phase : char { none = 0, complete = 'X', begin = 'B', end = 'E', metadata = 'M' };

struct Event {
  Phase phase = Phase::none;
  Category category = Category::none;
  Text name;
  Text pid;
  Text tid;
  Text time;
  Text duration;
  Text arguments;
  const char* readable_end = nullptr;
};

enum class Reading { wanted, unwanted, malformed };

// Reads the members of `object`; stops at the first that shows that nobody wants this event.
Reading read_event(std::string_view object, const char* readable_end, Event& event);

}  // namespace tetrace::kineto
