// Threads that are inside an op when Python ends.
//
// Python ends a thread that asks for its lock too late by unwinding the thread's stack (until
// 3.14), and nanobind's frames on it end the process with `abort`. Such a thread sleeps instead, as
// it does from 3.14 on. Until then calls are made as ever: what `atexit` runs may wait for them.
#pragma once

#include <Python.h>

#include <atomic>
#include <chrono>
#include <thread>

namespace crn {

// Gives Python's lock to others while it lives, for C++ that touches nothing of Python's.
class Unlocked {
 public:
  Unlocked() {
    ++running_;
    state_ = PyEval_SaveThread();
  }
  ~Unlocked() {
    --running_;
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {  // The unwinding, which must not end here, nor go on.
      for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
  }
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

  // To be called by `Py_AtExit`, when no call can begin: what runs may read what is destroyed next.
  static void finish() {
    while (running_ > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

  // To be called in the child of a fork, which has none of the other threads.
  static void forget() { running_ = 0; }

 private:
  static inline std::atomic<int> running_{0};
  PyThreadState* state_;
};

}  // namespace crn
