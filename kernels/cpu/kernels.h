// The kernels of one instruction set, as a table of plain functions: what is compiled several times
// is small and knows nothing of threads, memory or Python.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "convolution.h"
#include "head.h"

namespace crn {

// Count, mean and sum of squared deviations of some of the values of one image.
struct Moments {
  double count;
  double mean;
  double deviation;
};

// Consecutive tiles of one image, worked on together.
struct Block {
  std::size_t image;
  std::size_t first;
  std::size_t count;
};

struct Kernels {
  const char* name;
  std::size_t rows;  // tiles that the matrix product takes at a time

  // Transforms the input of one tile of a block: activated, upsampled, concatenated on the way.
  // v is [in * in][transformed_plane]: see `transformed_plane`.
  void (*load)(const Convolution&, const Block&, std::size_t tile, float* v);

  // Multiplies a block with the weights of group `group` of kGroup outputs, transforms back, adds
  // the layout's ids, writes the raw output and its moments. `products` is [in * in][rows][kGroup].
  void (*multiply)(const Convolution&, const Block&, std::size_t group, const float* v,
                   float* products, Moments* moments);

  // One row of pixels of one image.
  void (*head)(const Head&, std::size_t image, std::size_t row, float* scratch);
};

constexpr std::size_t kPanel = 16;  // outputs that lie together in packed weights
constexpr std::size_t kGroup = 32;  // outputs that one call of `multiply` makes

static constexpr std::size_t round_up(std::size_t x, std::size_t step) {
  return (x + step - 1) / step * step;
}

// Floats of one position's transformed input of a block: [tiles / rows][inputs / 16][rows][16].
// Sixteen more keep the positions from falling on the same few cache sets.
static constexpr std::size_t transformed_plane(std::size_t count, std::size_t inputs,
                                               std::size_t rows) {
  return round_up(count, rows) * round_up(inputs, kPanel) + kPanel;
}

extern const Kernels kPortable;
#if CRN_X86
extern const Kernels kAvx2;
extern const Kernels kAvx512;
#endif

// The instruction sets that this CPU runs, best first.
std::vector<std::string> kernel_names();

// The kernels of that name, or with an empty one the best that this CPU runs; null if it has none.
const Kernels* find_kernels(const std::string& name);

}  // namespace crn
