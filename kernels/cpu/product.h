// The matrix product's inner kernel: a few rows of A by one or two panels of B, held in registers.
//
// A is [inputs / 16][kRows][16]: a row's sixteen values lie together, as the transforms store them,
// and every row's distance from the pointer is a constant. B is packed: [inputs][16] for a panel.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace crn::CRN_ISA {

// Rows at a time, and panels: as many accumulators as the registers hold beside B and a broadcast.
constexpr int kRows = CRN_ROWS;
constexpr int kPanelsAtOnce = kWidth == 16 ? 2 : 1;
constexpr int kVecsPerPanel = static_cast<int>(kPanel / kWidth);

// c[row][32] = a * b for R rows and P panels of which the second lies `panel` floats on.
template <int R, int P>
void product(const float* a, const float* b, std::size_t panel, std::size_t inputs, float* c) {
  constexpr int kVecs = P * kVecsPerPanel;
  Vec sum[R][kVecs];
  CRN_UNROLL for (int r = 0; r < R; ++r) {
    CRN_UNROLL for (int j = 0; j < kVecs; ++j) sum[r][j] = zero();
  }
  for (std::size_t chunk = 0; chunk < inputs; chunk += kPanel, a += kRows * kPanel) {
    const std::size_t depth = smaller(kPanel, inputs - chunk);
    for (std::size_t k = 0; k < depth; ++k, b += kPanel) {
      Vec right[kVecs];
      CRN_UNROLL for (int j = 0; j < kVecs; ++j) {
        right[j] = load(b + (j / kVecsPerPanel) * panel + (j % kVecsPerPanel) * kWidth);
      }
      CRN_UNROLL for (int r = 0; r < R; ++r) {
        const float left = a[static_cast<std::size_t>(r) * kPanel + k];
        CRN_UNROLL for (int j = 0; j < kVecs; ++j) sum[r][j] += left * right[j];
      }
    }
  }
  CRN_UNROLL for (int r = 0; r < R; ++r) {
    CRN_UNROLL for (int j = 0; j < kVecs; ++j) {
      store(c + static_cast<std::size_t>(r) * kGroup + static_cast<std::size_t>(j) * kWidth,
            sum[r][j]);
    }
  }
}

template <int R, int P>
void product_of(std::size_t rows, const float* a, const float* b, std::size_t panel,
                std::size_t inputs, float* c) {
  if (rows == static_cast<std::size_t>(R)) {
    product<R, P>(a, b, panel, inputs, c);
  } else if constexpr (R > 1) {
    product_of<R - 1, P>(rows, a, b, panel, inputs, c);
  }
}

// c[rows][32] = a[rows][inputs] * b for one or two panels; rows <= kRows.
inline void multiply_rows(std::size_t rows, const float* a, const float* b, std::size_t panel,
                          std::size_t panels, std::size_t inputs, float* c) {
  if (kPanelsAtOnce == 2 && panels == 2) {
    product_of<kRows, kPanelsAtOnce>(rows, a, b, panel, inputs, c);
  } else {
    for (std::size_t p = 0; p < panels; ++p) {
      product_of<kRows, 1>(rows, a, b + p * panel, panel, inputs, c + p * kPanel);
    }
  }
}

}  // namespace crn::CRN_ISA
