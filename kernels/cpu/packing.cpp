#include "packing.h"

#include <algorithm>

#include "kernels.h"
#include "threading.h"

namespace crn {
namespace {

// G of F(m x m, 3x3), by which a 3x3 kernel g becomes G g G^T. The other two transforms are in
// tile.h.
constexpr double kDirect[3][3] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}};
constexpr double kWinograd4[6][3] = {
    {1.0 / 4, 0, 0},
    {-1.0 / 6, -1.0 / 6, -1.0 / 6},
    {-1.0 / 6, 1.0 / 6, -1.0 / 6},
    {1.0 / 24, 1.0 / 12, 1.0 / 6},
    {1.0 / 24, -1.0 / 12, 1.0 / 6},
    {0, 0, 1},
};
constexpr double kWinograd6[8][3] = {
    {1, 0, 0},
    {-2.0 / 9, -2.0 / 9, -2.0 / 9},
    {-2.0 / 9, 2.0 / 9, -2.0 / 9},
    {1.0 / 90, 1.0 / 45, 2.0 / 45},
    {1.0 / 90, -1.0 / 45, 2.0 / 45},
    {32.0 / 45, 16.0 / 45, 8.0 / 45},
    {32.0 / 45, -16.0 / 45, 8.0 / 45},
    {0, 0, 1},
};

// The kernels of sixteen outputs from one input: [tap][output].
void read_kernels(const Packing& p, std::size_t panel, std::size_t input,
                  double (&kernels)[9][kPanel]) {
  std::fill_n(&kernels[0][0], 9 * kPanel, 0.0);
  const std::size_t layout = round_up(p.features, kPanel);
  if (input >= p.features && input < layout) return;
  const std::size_t source = input < p.features ? input : input - layout + p.features;
  const std::size_t first = panel * kPanel, count = std::min(kPanel, p.outputs - first);
  for (std::size_t k = 0; k < count; ++k) {
    const float* kernel = p.weight + ((first + k) * p.inputs + source) * 9;
    for (std::size_t tap = 0; tap < 9; ++tap) kernels[tap][k] = kernel[tap];
  }
}

template <std::size_t N>
void pack_panel(const Packing& p, const double (&g)[N][3], std::size_t panel) {
  const std::size_t inputs = packed_inputs(p);
  float* out = p.out + panel * N * N * inputs * kPanel;
  for (std::size_t input = 0; input < inputs; ++input) {
    double kernels[9][kPanel], half[N][3][kPanel];
    read_kernels(p, panel, input, kernels);
    for (std::size_t i = 0; i < N; ++i) {
      for (std::size_t x = 0; x < 3; ++x) {
        for (std::size_t k = 0; k < kPanel; ++k) {
          half[i][x][k] =
              g[i][0] * kernels[x][k] + g[i][1] * kernels[3 + x][k] + g[i][2] * kernels[6 + x][k];
        }
      }
    }
    for (std::size_t i = 0; i < N; ++i) {
      for (std::size_t j = 0; j < N; ++j) {
        float* to = out + ((i * N + j) * inputs + input) * kPanel;
        for (std::size_t k = 0; k < kPanel; ++k) {
          to[k] = static_cast<float>(g[j][0] * half[i][0][k] + g[j][1] * half[i][1][k] +
                                     g[j][2] * half[i][2][k]);
        }
      }
    }
  }
}

}  // namespace

std::size_t packed_inputs(const Packing& p) {
  return round_up(p.features, kPanel) + p.multiplied - p.features;
}

void pack(const Packing& p, std::size_t threads) {
  parallel_for(round_up(p.outputs, kPanel) / kPanel, threads, [&](std::size_t, std::size_t panel) {
    if (p.side == 1) {
      pack_panel(p, kDirect, panel);
    } else if (p.side == 4) {
      pack_panel(p, kWinograd4, panel);
    } else {
      pack_panel(p, kWinograd6, panel);
    }
  });
}

}  // namespace crn
