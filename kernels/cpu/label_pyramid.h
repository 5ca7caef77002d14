// label_pyramid: a uint8 label map -> float soft maps at every level below full size.
//
// Level l has one value for each class and each block of 2^l x 2^l labels: the share of the block
// that has the class. Shares are whole multiples of 4^-l, so float holds them exactly up to
// kMaxLevels, and the result does not depend on the number of threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace crn {

constexpr std::size_t kMaxLevels = 12;    // 4^12 = 2^24, the last count that float has exactly
constexpr std::size_t kMaxClasses = 255;  // the id 255 is left free for 'no label'

struct PyramidShape {
  std::size_t batch;
  std::size_t height;  // of the label map; divisible by 2^levels
  std::size_t width;   // of the label map; divisible by 2^levels
  std::size_t classes;
  std::size_t levels;
};

// Index of the first of `count` ids that is not below `classes`; `count` if there is none.
std::size_t first_invalid_id(const std::uint8_t* labels, std::size_t count, std::size_t classes);

// Writes every element of every map once and reads no map before it is written.
//
// labels    [batch, height, width], C order. An id that is not below `classes` belongs to no class.
// maps      maps[l - 1] is level l: [batch, classes, height >> l, width >> l], C order
// threads   the caller included; 0 counts as 1
void label_pyramid(const std::uint8_t* labels, const PyramidShape& shape, float* const* maps,
                   std::size_t threads);

}  // namespace crn
