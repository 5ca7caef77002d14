// Memory for one op, aligned to cache lines and not cleared.
#pragma once

#include <cstddef>
#include <new>
#include <string>

namespace crn {

class NoRoom : public std::bad_alloc {
 public:
  explicit NoRoom(std::size_t bytes)
      : message_("no room for " + std::to_string(bytes) + " bytes of scratch memory") {}
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

class Scratch {
 public:
  // Throws NoRoom.
  explicit Scratch(std::size_t floats)
      : data_(static_cast<float*>(::operator new(floats * sizeof(float), kLine, std::nothrow))) {
    if (!data_) throw NoRoom(floats * sizeof(float));
  }
  ~Scratch() { ::operator delete(data_, kLine); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  float* data() const { return data_; }

 private:
  static constexpr std::align_val_t kLine{64};
  float* data_;
};

}  // namespace crn
