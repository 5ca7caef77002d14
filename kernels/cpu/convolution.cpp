#include "convolution.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels.h"
#include "scratch.h"
#include "threading.h"

namespace crn {
namespace {

constexpr double kEps = 1e-12;  // added to the variance, as in the authors' layer norm

// What a block's transformed input may take: it is read once for each group of outputs.
constexpr std::size_t kSharedBytes = std::size_t{8} << 20;   // in the last cache, for all threads
constexpr std::size_t kPrivateBytes = std::size_t{1} << 19;  // in each core's own
// Weights up to this size stay in the last cache, so blocks may be small.
constexpr std::size_t kCachedWeights = std::size_t{4} << 20;
constexpr std::size_t kEnoughBlocks = 32;  // to keep threads busy with a block each

// How an image is cut into blocks. It depends on the shape alone, and so do the partial sums.
struct Plan {
  std::size_t tiles;   // a block
  std::size_t blocks;  // an image
  std::size_t groups;  // of outputs
  bool shared;         // threads share a block; else each has its own

  Plan(const Convolution& c, std::size_t rows) {
    groups = (c.padded + kGroup - 1) / kGroup;
    const std::size_t bytes = sizeof(float) * c.positions * round_up(c.inputs + 1, kPanel);
    cut(tile_count(c), kPrivateBytes / bytes, rows);
    const std::size_t weights = sizeof(float) * c.positions * c.inputs * c.padded;
    shared = weights > kCachedWeights || (blocks < kEnoughBlocks && blocks < groups);
    if (shared) cut(tile_count(c), kSharedBytes / bytes, rows);
  }

  // Blocks of about the same size, of at most `limit` tiles where that is more than `rows`.
  void cut(std::size_t all, std::size_t limit, std::size_t rows) {
    limit = std::max(limit / rows, std::size_t{1}) * rows;
    const std::size_t wanted = (all + limit - 1) / limit;
    tiles = round_up((all + wanted - 1) / wanted, rows);
    blocks = (all + tiles - 1) / tiles;
  }
};

// Source coordinate of each of `size` pixels, twice as many as the source has.
std::vector<Sample> samples(std::size_t size, Upsampling upsampling) {
  std::vector<Sample> found(size);
  const std::size_t source = size / 2;
  for (std::size_t i = 0; i < size; ++i) {
    const auto at = static_cast<double>(i);
    const double x = upsampling == Upsampling::kAlignCorners
                         ? at * static_cast<double>(source - 1) / static_cast<double>(size - 1)
                         : std::max(0.0, at / 2 - 0.25);
    const std::size_t low = std::min(static_cast<std::size_t>(x), source - 1);
    found[i] = {low, std::min(low + 1, source - 1),
                static_cast<float>(x - static_cast<double>(low))};
  }
  return found;
}

// Turns the moments of an image's parts, in their order, into the pending scale and shift.
void normalize(const Convolution& c, std::size_t image, const Moments* parts, std::size_t count) {
  Moments all{0, 0, 0};
  for (std::size_t i = 0; i < count; ++i) {
    const double n = all.count + parts[i].count, step = parts[i].mean - all.mean;
    all.mean += step * parts[i].count / n;
    all.deviation += parts[i].deviation + step * step * all.count * parts[i].count / n;
    all.count = n;
  }
  const double inverse = 1 / std::sqrt(all.deviation / all.count + kEps);
  float* scale = c.out_scale + image * c.padded;
  float* shift = c.out_shift + image * c.padded;
  std::fill(scale, scale + c.padded, 0.0f);
  std::fill(shift, shift + c.padded, 0.0f);
  for (std::size_t k = 0; k < c.outputs; ++k) {
    const double factor = c.gamma[k] * inverse;
    scale[k] = static_cast<float>(factor);
    shift[k] = static_cast<float>(c.beta[k] - all.mean * factor);
  }
}

}  // namespace

void convolve(Convolution c, const Kernels& kernels, std::size_t threads) {
  std::vector<Sample> rows, columns;
  if (c.raw && c.upsampling != Upsampling::kNone) {
    rows = samples(c.height, c.upsampling);
    columns = samples(c.width, c.upsampling);
  }
  c.rows = rows.data();
  c.columns = columns.data();

  const Plan plan(c, kernels.rows);
  threads = std::clamp(threads, std::size_t{1}, plan.shared ? plan.tiles : plan.blocks);
  const std::size_t products = c.positions * plan.tiles * kGroup;
  const std::size_t transformed =
      c.positions * transformed_plane(plan.tiles, c.inputs, kernels.rows);
  const Scratch memory(plan.shared ? transformed + std::min(threads, plan.groups) * products
                                   : threads * (transformed + products));
  std::vector<Moments> moments(plan.blocks * plan.groups);

  const auto block_at = [&](std::size_t image, std::size_t index) {
    const std::size_t first = index * plan.tiles;
    return Block{image, first, std::min(plan.tiles, tile_count(c) - first)};
  };
  const auto multiply = [&](const Block& block, std::size_t index, std::size_t group,
                            const float* v, float* to) {
    kernels.multiply(c, block, group, v, to, &moments[index * plan.groups + group]);
  };
  for (std::size_t image = 0; image < c.batch; ++image) {
    if (plan.shared) {
      float* v = memory.data();
      for (std::size_t index = 0; index < plan.blocks; ++index) {
        const Block block = block_at(image, index);
        parallel_for(block.count, threads,
                     [&](std::size_t, std::size_t tile) { kernels.load(c, block, tile, v); });
        parallel_for(plan.groups, threads, [&](std::size_t worker, std::size_t group) {
          multiply(block, index, group, v, v + transformed + worker * products);
        });
      }
    } else {
      parallel_for(plan.blocks, threads, [&](std::size_t worker, std::size_t index) {
        const Block block = block_at(image, index);
        float* v = memory.data() + worker * (transformed + products);
        for (std::size_t tile = 0; tile < block.count; ++tile) kernels.load(c, block, tile, v);
        for (std::size_t group = 0; group < plan.groups; ++group) {
          multiply(block, index, group, v, v + transformed);
        }
      });
    }
    normalize(c, image, moments.data(), moments.size());
  }
}

}  // namespace crn
