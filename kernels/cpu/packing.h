// A convolution's weights as the kernels read them: transformed for their tiles, sixteen outputs
// side by side, zeros in the padding. Done once, when an engine is built.
#pragma once

#include <cstddef>

namespace crn {

struct Packing {
  const float* weight;  // [outputs, inputs, 3, 3]
  std::size_t outputs;
  std::size_t inputs;      // features, and then the layout's classes
  std::size_t features;    // padded to a multiple of 16 in `out`
  std::size_t multiplied;  // inputs that are packed: all, or the features alone
  std::size_t side;        // of a tile of outputs: 1, 4 or 6
  float* out;              // [padded / 16, (side + 2)^2, packed_inputs, 16]
};

std::size_t packed_inputs(const Packing& packing);

// In double, rounded once: the same bits on every machine of a kind.
void pack(const Packing& packing, std::size_t threads);

}  // namespace crn
