// refine and conv: a 3x3 convolution of what the op table calls features, with its statistics.
//
// Features are [N, H, W, C] with C padded to a multiple of 16, raw, with a scale and a shift for
// each image and channel that are still to be applied, and leaky ReLU after them. `refine` also
// upsamples them x2 and concatenates the layout. All of that happens while a tile's input is read:
// no activated, upsampled or concatenated map exists.
#pragma once

#include <cstddef>
#include <cstdint>

namespace crn {

// Where one row or column of an upsampled map comes from: low + weight * (high - low).
struct Sample {
  std::size_t low;
  std::size_t high;
  float weight;
};

enum class Upsampling { kNone, kAlignCorners, kHalfPixel };

struct Convolution {
  std::size_t batch, height, width;  // of the output

  const float* raw;           // [batch, source_height, source_width, features]; null for none
  const float* scale;         // [batch, features]
  const float* shift;         // [batch, features]
  std::size_t features;       // channels, padded to a multiple of 16; 0 for none
  std::size_t source_height;  // half of `height` when upsampled
  std::size_t source_width;
  Upsampling upsampling;
  const Sample* rows;     // [height], set by `convolve`
  const Sample* columns;  // [width], set by `convolve`

  const float* soft;        // layout [batch, classes, height, width]; null for none
  const std::uint8_t* ids;  // layout [batch, height, width], each below `classes`; null for none
  std::size_t classes;
  const float* table;  // with ids: [10, classes, padded]: each tap's weights, and the taps' sum

  const float* weights;   // [padded / 16, in * in, inputs, 16]
  std::size_t inputs;     // features, and the classes of a soft layout
  std::size_t positions;  // in * in: 9 direct, 36 for F(4x4), 64 for F(6x6)
  std::size_t outputs;    // channels that are computed
  std::size_t padded;     // channels in memory: `outputs` rounded up to a multiple of 16
  float* out;             // [batch, height, width, padded]

  const float* gamma;  // [outputs]
  const float* beta;   // [outputs]
  float* out_scale;    // [batch, padded]; 0 in the padding
  float* out_shift;    // [batch, padded]; 0 in the padding
};

// Static, so that no file's copy stands for that of a file compiled for a lesser CPU.
static inline std::size_t tile_side(const Convolution& c) {
  return c.positions == 9 ? 1 : c.positions == 36 ? 4 : 6;
}
static inline std::size_t tile_columns(const Convolution& c) {
  return (c.width + tile_side(c) - 1) / tile_side(c);
}
static inline std::size_t tile_count(const Convolution& c) {
  return (c.height + tile_side(c) - 1) / tile_side(c) * tile_columns(c);
}

struct Kernels;

// Fills out, out_scale and out_shift; the same bits whatever the number of threads.
// Throws NoRoom.
void convolve(Convolution convolution, const Kernels& kernels, std::size_t threads);

}  // namespace crn
