// Calls that are under way in other threads when Python ends.
//
// Python ends a thread that asks for its lock too late by unwinding the thread's stack
// (until 3.14), and a C++ frame on it ends the process with `abort`. So Python waits for the calls
// under way before it ends, and the threads that call later than that sleep.
#pragma once

#include <nanobind/nanobind.h>

#include <atomic>
#include <chrono>
#include <thread>

namespace crn {

class Call {
 public:
  // Holds Python's lock, as all of this does.
  Call() {
    if (ending_ && std::this_thread::get_id() != ender_) {
      const nanobind::gil_scoped_release release;
      for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
    ++under_way_;
  }
  ~Call() { --under_way_; }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  // To be called by `atexit`. The thread that ends Python may still make calls.
  static void finish() {
    ender_ = std::this_thread::get_id();
    ending_ = true;
    while (under_way_ > 0) {
      const nanobind::gil_scoped_release release;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  // To be called in the child of a fork, which has none of the other threads.
  static void forget() { under_way_ = 0; }

 private:
  static inline std::atomic<int> under_way_{0};
  static inline std::atomic<bool> ending_{false};
  static inline std::thread::id ender_;
};

}  // namespace crn
