// One row of pixels to RGB: activated a few pixels at a time, then the convolution's matrix
// product.
#pragma once

#include "kernels.h"
#include "product.h"
#include "simd.h"

namespace crn::CRN_ISA {

// scratch   kRows * (features + kGroup) floats: activated pixels, then products
inline void head_row(const Head& h, std::size_t image, std::size_t y, float* scratch) {
  const std::size_t outputs = 3 * h.images, panels = round_up(outputs, kPanel) / kPanel;
  const std::size_t panel = h.features * kPanel;
  const float* raw = h.raw + (image * h.height + y) * h.width * h.features;
  const float* scale = h.scale + image * h.features;
  const float* shift = h.shift + image * h.features;
  float* products = scratch + kRows * h.features;
  for (std::size_t x = 0; x < h.width; x += kRows) {
    const std::size_t pixels = smaller(kRows, h.width - x);
    for (std::size_t k = 0; k < h.features; k += kWidth) {
      const Vec a = load(scale + k), b = load(shift + k);
      float* to = scratch + k / kPanel * kPanel * kRows + k % kPanel;
      for (std::size_t i = 0; i < pixels; ++i) {
        store(to + i * kPanel, activate(load(raw + (x + i) * h.features + k), a, b));
      }
    }
    for (std::size_t p = 0; p < panels; ++p) {
      multiply_rows(pixels, scratch, h.weights + p * panel, panel, 1, h.features, products);
      for (std::size_t o = p * kPanel; o < smaller(outputs, (p + 1) * kPanel); ++o) {
        const std::size_t row = ((image * h.images + o / 3) * h.height + y) * h.width + x;
        float* to = h.out + row * 3 + o % 3;
        for (std::size_t i = 0; i < pixels; ++i) {
          to[3 * i] = (products[i * kGroup + o % kPanel] + h.bias[o] + 1.0f) * 127.5f;
        }
      }
    }
  }
}

}  // namespace crn::CRN_ISA
