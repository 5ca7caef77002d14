// Row-parallel loops on plain std::thread. No pool: an op runs for milliseconds, a start costs
// microseconds, and nothing is left running that a fork could lose.
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <thread>
#include <vector>

namespace crn {

// Calls body(worker, index) once for each index in [0, count), on at most `threads` threads, of
// which the caller is worker 0. Indices are handed out one by one, so a slow core holds nobody up;
// who gets which is not fixed, so the result is only if each index writes what it alone owns.
// The body must not throw.
template <class Body>
void parallel_for(std::size_t count, std::size_t threads, const Body& body) {
  std::atomic<std::size_t> next{0};
  const auto work = [&](std::size_t worker) noexcept {
    for (std::size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
      body(worker, i);
    }
  };
  std::vector<std::thread> workers;
  workers.reserve(threads);
  for (std::size_t worker = 1; worker < threads && worker < count; ++worker) {
    try {
      workers.emplace_back(work, worker);
    } catch (const std::exception&) {
      break;  // No more threads may be started, or there is no memory: those there are do the work.
    }
  }
  work(0);
  for (std::thread& worker : workers) worker.join();
}

}  // namespace crn
