// One tile in, and one block of tiles times one group of outputs: the two halves of a convolution.
#pragma once

#include "kernels.h"
#include "product.h"
#include "simd.h"
#include "tile.h"

namespace crn::CRN_ISA {

// A tile's input window: its corner, which may lie outside of the image by one pixel.
struct Window {
  std::ptrdiff_t y, x;
};

inline Window window_of(const Convolution& c, std::size_t tile, std::size_t side) {
  return {static_cast<std::ptrdiff_t>(tile / tile_columns(c) * side) - 1,
          static_cast<std::ptrdiff_t>(tile % tile_columns(c) * side) - 1};
}

// The part of [start, start + n) that lies in [0, size), counted from `start`.
struct Range {
  int begin, end;
};

inline Range inside(std::ptrdiff_t start, int n, std::size_t size) {
  const auto last = static_cast<std::ptrdiff_t>(size) - start;
  return {start < 0 ? static_cast<int>(-start) : 0, last < n ? static_cast<int>(last) : n};
}

// kWidth channels of a window of features, activated; zero outside of the image.
template <int N>
void read_features(const Convolution& c, std::size_t image, Window at, std::size_t channel,
                   Vec* to) {
  const Vec scale = load(c.scale + image * c.features + channel);
  const Vec shift = load(c.shift + image * c.features + channel);
  const float* raw = c.raw + image * c.height * c.width * c.features + channel;
  const Range rows = inside(at.y, N, c.height), columns = inside(at.x, N, c.width);
  for (int i = 0; i < N; ++i) {
    for (int j = 0; j < N; ++j) to[i * N + j] = zero();
    if (i < rows.begin || i >= rows.end) continue;
    const float* row = raw + static_cast<std::size_t>(at.y + i) * c.width * c.features;
    for (int j = columns.begin; j < columns.end; ++j) {
      const float* pixel = row + static_cast<std::size_t>(at.x + j) * c.features;
      to[i * N + j] = activate(load(pixel), scale, shift);
    }
  }
}

// The same of features that are upsampled x2: the few source pixels under the window are activated
// once, then interpolated along rows and along columns.
template <int N>
void read_upsampled(const Convolution& c, std::size_t image, Window at, std::size_t channel,
                    Vec* to) {
  constexpr std::size_t kSpan = N / 2 + 2;  // source pixels under N, at half a pixel a step
  const Vec scale = load(c.scale + image * c.features + channel);
  const Vec shift = load(c.shift + image * c.features + channel);
  const float* raw = c.raw + image * c.source_height * c.source_width * c.features + channel;
  const Range rows = inside(at.y, N, c.height), columns = inside(at.x, N, c.width);
  const Sample* down = c.rows + at.y;
  const Sample* along = c.columns + at.x;
  const std::size_t top = down[rows.begin].low, left = along[columns.begin].low;
  const std::size_t height = down[rows.end - 1].high - top + 1;
  const std::size_t width = along[columns.end - 1].high - left + 1;

  Vec across[kSpan * N];
  for (std::size_t y = 0; y < height; ++y) {
    Vec source[kSpan];
    const float* row = raw + ((top + y) * c.source_width + left) * c.features;
    for (std::size_t x = 0; x < width; ++x) {
      source[x] = activate(load(row + x * c.features), scale, shift);
    }
    for (int j = columns.begin; j < columns.end; ++j) {
      const Vec low = source[along[j].low - left], high = source[along[j].high - left];
      across[y * N + static_cast<std::size_t>(j)] = low + along[j].weight * (high - low);
    }
  }
  for (int i = 0; i < N; ++i) {
    for (int j = 0; j < N; ++j) to[i * N + j] = zero();
    if (i < rows.begin || i >= rows.end) continue;
    const Vec* low = across + (down[i].low - top) * N;
    const Vec* high = across + (down[i].high - top) * N;
    for (int j = columns.begin; j < columns.end; ++j) {
      to[i * N + j] = low[j] + down[i].weight * (high[j] - low[j]);
    }
  }
}

// kWidth classes of a window of a soft layout; zero outside of the image and beyond the classes.
template <int N>
void read_layout(const Convolution& c, std::size_t image, Window at, std::size_t first, Vec* to) {
  const Range rows = inside(at.y, N, c.height), columns = inside(at.x, N, c.width);
  const std::size_t classes = smaller(kWidth, c.classes - first);
  float lanes[N * N * kWidth] = {};
  for (std::size_t k = 0; k < classes; ++k) {
    const float* plane = c.soft + (image * c.classes + first + k) * c.height * c.width;
    for (int i = rows.begin; i < rows.end; ++i) {
      const float* row = plane + static_cast<std::size_t>(at.y + i) * c.width;
      for (int j = columns.begin; j < columns.end; ++j) {
        lanes[static_cast<std::size_t>(i * N + j) * kWidth + k] = row[at.x + j];
      }
    }
  }
  for (std::size_t i = 0; i < N * N; ++i) to[i] = load(lanes + i * kWidth);
}

template <class F>
void load_tile(const Convolution& c, const Block& block, std::size_t tile, float* v) {
  constexpr int N = F::kIn;
  const std::size_t plane = transformed_plane(block.count, c.inputs, kRows);
  const Window at = window_of(c, block.first + tile, F::kOut);
  float* group = v + tile / kRows * kRows * round_up(c.inputs, kPanel) + tile % kRows * kPanel;
  for (std::size_t channel = 0; channel < c.inputs; channel += kWidth) {
    Vec window[N * N], transformed[N * N];
    if (channel >= c.features) {
      read_layout<N>(c, block.image, at, channel - c.features, window);
    } else if (c.upsampling == Upsampling::kNone) {
      read_features<N>(c, block.image, at, channel, window);
    } else {
      read_upsampled<N>(c, block.image, at, channel, window);
    }
    transform<N, N>(window, transformed, F::input);
    float* to = group + channel / kPanel * kPanel * kRows + channel % kPanel;
    for (std::size_t t = 0; t < N * N; ++t) store(to + t * plane, transformed[t]);
  }
}

// Count, mean and squared deviations for each lane, merged by Chan, Golub & LeVeque's formula.
struct Lanes {
  float count = 0;
  Vec mean = zero(), deviation = zero();

  void merge(const Vec* values, const Range& rows, const Range& columns, int stride) {
    Vec sum = zero(), squares = zero();
    for (int i = rows.begin; i < rows.end; ++i) {
      for (int j = columns.begin; j < columns.end; ++j) sum += values[i * stride + j];
    }
    const auto n = static_cast<float>((rows.end - rows.begin) * (columns.end - columns.begin));
    const Vec tile_mean = (1.0f / n) * sum;
    for (int i = rows.begin; i < rows.end; ++i) {
      for (int j = columns.begin; j < columns.end; ++j) {
        const Vec difference = values[i * stride + j] - tile_mean;
        squares += difference * difference;
      }
    }
    const Vec step = tile_mean - mean;
    const float share = n / (count + n);
    mean += share * step;
    deviation += squares + (count * share) * (step * step);
    count += n;
  }
};

inline void merge(Moments& into, const Moments& other) {
  const double count = into.count + other.count, step = other.mean - into.mean;
  into.mean += step * other.count / count;
  into.deviation += other.deviation + step * step * into.count * other.count / count;
  into.count = count;
}

// Adds the weights that a tile's ids select, kWidth outputs from `channel` on.
template <class F>
void add_ids(const Convolution& c, std::size_t image, Window at, std::size_t channel, Vec* to) {
  constexpr int N = F::kIn, M = F::kOut;
  const std::uint8_t* ids = c.ids + image * c.height * c.width;
  const float* table = c.table + channel;
  const Range rows = inside(at.y, N, c.height), columns = inside(at.x, N, c.width);
  const auto id = [&](int i, int j) {
    return std::size_t{
        ids[static_cast<std::size_t>(at.y + i) * c.width + static_cast<std::size_t>(at.x + j)]};
  };
  const std::size_t first = id(rows.begin, columns.begin);
  bool same = rows.begin == 0 && rows.end == N && columns.begin == 0 && columns.end == N;
  for (int i = 0; same && i < N; ++i) {
    for (int j = 0; j < N; ++j) same &= id(i, j) == first;
  }
  if (same) {
    const Vec all = load(table + (9 * c.classes + first) * c.padded);
    for (int i = 0; i < M * M; ++i) to[i] += all;
    return;
  }
  for (int i = rows.begin; i < rows.end; ++i) {
    for (int j = columns.begin; j < columns.end; ++j) {
      const float* of_id = table + id(i, j) * c.padded;
      for (int y = i < 2 ? 0 : i - 2; y <= i && y < M; ++y) {
        for (int x = j < 2 ? 0 : j - 2; x <= j && x < M; ++x) {
          const auto tap = static_cast<std::size_t>((i - y) * 3 + j - x);
          to[y * M + x] += load(of_id + tap * c.classes * c.padded);
        }
      }
    }
  }
}

template <class F>
void multiply_block(const Convolution& c, const Block& block, std::size_t group, const float* v,
                    float* products, Moments* moments) {
  constexpr int N = F::kIn, M = F::kOut;
  constexpr std::size_t kPositions = N * N;
  const std::size_t plane = transformed_plane(block.count, c.inputs, kRows);
  const std::size_t rows_in_all = round_up(block.count, kRows);
  const std::size_t width = smaller(kGroup, c.padded - group * kGroup);
  const std::size_t panel = kPositions * c.inputs * kPanel;
  const float* weights = c.weights + group * (kGroup / kPanel) * panel;
  for (std::size_t t = 0; t < kPositions; ++t) {
    for (std::size_t first = 0; first < block.count; first += kRows) {
      multiply_rows(smaller(kRows, block.count - first),
                    v + t * plane + first * round_up(c.inputs, kPanel),
                    weights + t * c.inputs * kPanel, panel, width / kPanel, c.inputs,
                    products + (t * rows_in_all + first) * kGroup);
    }
  }

  *moments = {0, 0, 0};
  for (std::size_t lane = 0; lane < width; lane += kWidth) {
    const std::size_t channel = group * kGroup + lane;
    Lanes lanes;
    for (std::size_t tile = 0; tile < block.count; ++tile) {
      Vec window[kPositions], pixels[M * M];
      for (std::size_t t = 0; t < kPositions; ++t) {
        window[t] = load(products + (t * rows_in_all + tile) * kGroup + lane);
      }
      transform<N, M>(window, pixels, F::output);
      const Window at = window_of(c, block.first + tile, M);
      if (c.ids) add_ids<F>(c, block.image, at, channel, pixels);
      const auto y = static_cast<std::size_t>(at.y + 1), x = static_cast<std::size_t>(at.x + 1);
      const Range rows = inside(at.y + 1, M, c.height), columns = inside(at.x + 1, M, c.width);
      for (int i = 0; i < rows.end; ++i) {
        float* row =
            c.out +
            ((block.image * c.height + y + static_cast<std::size_t>(i)) * c.width + x) * c.padded;
        for (int j = 0; j < columns.end; ++j) {
          store(row + static_cast<std::size_t>(j) * c.padded + channel, pixels[i * M + j]);
        }
      }
      lanes.merge(pixels, rows, columns, M);
    }
    for (std::size_t i = 0; i < kWidth && channel + i < c.outputs; ++i) {
      merge(*moments, {lanes.count, lanes.mean[i], lanes.deviation[i]});
    }
  }
}

inline void load_any(const Convolution& c, const Block& block, std::size_t tile, float* v) {
  switch (c.positions) {
    case 9:
      return load_tile<Direct>(c, block, tile, v);
    case 36:
      return load_tile<Winograd4>(c, block, tile, v);
    default:
      return load_tile<Winograd6>(c, block, tile, v);
  }
}

inline void multiply_any(const Convolution& c, const Block& block, std::size_t group,
                         const float* v, float* products, Moments* moments) {
  switch (c.positions) {
    case 9:
      return multiply_block<Direct>(c, block, group, v, products, moments);
    case 36:
      return multiply_block<Winograd4>(c, block, group, v, products, moments);
    default:
      return multiply_block<Winograd6>(c, block, group, v, products, moments);
  }
}

}  // namespace crn::CRN_ISA
