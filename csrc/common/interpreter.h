// How threads let go of Python's interpreter and take it back, also those that are still there when it ends.
#pragma once

#include <Python.h>
#include <unistd.h>

namespace tetrace {

// Also once it has ended. No thread but the one that ends it gets it any more.
inline bool is_interpreter_ending() {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsFinalizing() != 0 || Py_IsInitialized() == 0;
#else
  return _Py_IsFinalizing() != 0 || Py_IsInitialized() == 0;
#endif
}

// Up to Python 3.13 a thread that wants the interpreter while it ends is ended by pthread_exit, which unwinds its stack:
// where a destructor or anything else that is noexcept called, that is std::terminate, and a script that was through ends
// with 134. From 3.14 on such a thread sleeps for good, and caught here it does in every version; nothing above it is
// unwound. `what` takes the interpreter and throws nothing else.
//
// To ask first whether the interpreter ends is not enough: it may begin to while one waits for it. To let the unwind pass
// (noexcept(false)) asks the same of every caller, of pybind11 and torch too, and runs the destructors of thread_locals.
template <class What>
auto sleep_where_interpreter_ends(const What& what) {
  try {
    return what();
  } catch (...) {
    for (;;) pause();
  }
}

inline void take_interpreter_back(PyThreadState* state) {
  sleep_where_interpreter_ends([=] { PyEval_RestoreThread(state); });
}

// While it lives, other threads have the interpreter. In place of pybind11's gil_scoped_release, for the reason above.
class InterpreterRelease {
 public:
  InterpreterRelease() : state_(PyEval_SaveThread()) {}
  ~InterpreterRelease() { take_interpreter_back(state_); }
  InterpreterRelease(const InterpreterRelease&) = delete;
  InterpreterRelease& operator=(const InterpreterRelease&) = delete;

 private:
  PyThreadState* state_;
};

}  // namespace tetrace
