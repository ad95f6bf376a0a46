// Other threads of the interpreter run on while the driver makes one of them wait: its queue of launches may be full. The
// extension says how (csrc/timing/bind.cpp); nothing else here knows of Python.
#pragma once

#include <atomic>

namespace tetrace::timing {

struct Interpreter {
  // What `take_back` needs; null where the calling thread does not hold the interpreter, or keeps it.
  void* (*let_go)();
  // Throws nothing, nor is the thread ended in it: destructors call it.
  void (*take_back)(void* held);
};

inline std::atomic<const Interpreter*> interpreter{nullptr};

class Unlocked {
 public:
  Unlocked() : interpreter_(interpreter.load(std::memory_order_acquire)) {
    if (interpreter_ != nullptr) held_ = interpreter_->let_go();
  }
  ~Unlocked() {
    if (held_ != nullptr) interpreter_->take_back(held_);
  }
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 private:
  const Interpreter* interpreter_;
  void* held_ = nullptr;
};

}  // namespace tetrace::timing
