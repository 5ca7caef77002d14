#include "head.h"

#include <algorithm>

#include "kernels.h"
#include "scratch.h"
#include "threading.h"

namespace crn {

void head(const Head& h, const Kernels& kernels, std::size_t threads) {
  threads = std::clamp(threads, std::size_t{1}, h.batch * h.height);
  const std::size_t each = kernels.rows * (h.features + kGroup);
  const Scratch scratch(threads * each);
  parallel_for(h.batch * h.height, threads, [&](std::size_t worker, std::size_t row) {
    kernels.head(h, row / h.height, row % h.height, scratch.data() + worker * each);
  });
}

void to_uint8(const float* rgb, std::size_t count, std::size_t threads, std::uint8_t* out) {
  constexpr std::size_t kChunk = 1 << 16;
  parallel_for((count + kChunk - 1) / kChunk, threads, [&](std::size_t, std::size_t chunk) {
    const std::size_t end = std::min(count, (chunk + 1) * kChunk);
    for (std::size_t i = chunk * kChunk; i < end; ++i) {
      // Not clamp: this order makes NaN 0. Truncation is the floor of what is not negative.
      const float clipped = rgb[i] > 0.0f ? std::min(rgb[i], 255.0f) : 0.0f;
      out[i] = static_cast<std::uint8_t>(static_cast<int>(clipped + 0.5f));
    }
  });
}

}  // namespace crn
