// head: norm, leaky ReLU and a 1x1 convolution to RGB; to_uint8: clip and round.
#pragma once

#include <cstddef>
#include <cstdint>

namespace crn {

struct Head {
  std::size_t batch, height, width;
  const float* raw;    // [batch, height, width, features]
  const float* scale;  // [batch, features]
  const float* shift;  // [batch, features]
  std::size_t features;
  const float* weights;  // [ceil(3 * images / 16), features, 16], outputs ordered image, colour
  const float* bias;     // [3 * images], as the weights
  std::size_t images;
  float* out;  // [batch, images, height, width, 3], around 0..255
};

struct Kernels;

// Throws NoRoom.
void head(const Head& head, const Kernels& kernels, std::size_t threads);

// Clips to 0..255 and rounds half up.
void to_uint8(const float* rgb, std::size_t count, std::size_t threads, std::uint8_t* out);

}  // namespace crn
