#include "label_pyramid.h"

#include <algorithm>
#include <vector>

#include "threading.h"

namespace crn {
namespace {

// One row of level 1, all classes, from two rows of labels. Every class is compared with every
// label rather than each label scattered to its class: the output is dense anyway, and so there is
// no branch, no zero fill, and no address that an id decides.
//
// corners   scratch, 2 * width bytes
// out       row of class 0; the others follow at `plane` floats
void count_row(const std::uint8_t* labels, std::size_t width, std::size_t classes,
               std::size_t plane, std::uint8_t* corners, float* out) {
  const std::size_t half = width / 2;
  std::uint8_t* __restrict a = corners;
  std::uint8_t* __restrict b = corners + half;
  std::uint8_t* __restrict c = corners + 2 * half;
  std::uint8_t* __restrict d = corners + 3 * half;
  for (std::size_t x = 0; x < half; ++x) {
    a[x] = labels[2 * x];
    b[x] = labels[2 * x + 1];
    c[x] = labels[width + 2 * x];
    d[x] = labels[width + 2 * x + 1];
  }
  for (std::size_t k = 0; k < classes; ++k) {
    const auto id = static_cast<std::uint8_t>(k);
    float* __restrict row = out + k * plane;
    for (std::size_t x = 0; x < half; ++x) {
      const int count = (a[x] == id) + (b[x] == id) + (c[x] == id) + (d[x] == id);
      row[x] = 0.25f * static_cast<float>(count);
    }
  }
}

// One row of a coarser level, all classes: the 2x2 means of two rows of the level below.
//
// fine      first of the two rows, class 0; 2 * width floats each, the next class 4 * plane on
// out       row of class 0; `width` floats, the next class `plane` on
void mean_row(const float* fine, std::size_t width, std::size_t classes, std::size_t plane,
              float* out) {
  for (std::size_t k = 0; k < classes; ++k) {
    const float* __restrict top = fine + 4 * k * plane;
    const float* __restrict bottom = top + 2 * width;
    float* __restrict row = out + k * plane;
    for (std::size_t x = 0; x < width; ++x) {
      row[x] = 0.25f * (top[2 * x] + top[2 * x + 1] + bottom[2 * x] + bottom[2 * x + 1]);
    }
  }
}

struct Pyramid {
  const std::uint8_t* labels;
  const PyramidShape& shape;
  float* const* maps;

  std::size_t rows(std::size_t level) const { return shape.height >> level; }
  std::size_t columns(std::size_t level) const { return shape.width >> level; }
  std::size_t plane(std::size_t level) const { return rows(level) * columns(level); }

  float* row(std::size_t level, std::size_t image, std::size_t y) const {
    return maps[level - 1] + image * shape.classes * plane(level) + y * columns(level);
  }

  void count(std::size_t image, std::size_t y, std::uint8_t* scratch) const {
    const std::uint8_t* source = labels + (image * shape.height + 2 * y) * shape.width;
    count_row(source, shape.width, shape.classes, plane(1), scratch, row(1, image, y));
  }

  void mean(std::size_t level, std::size_t image, std::size_t y) const {
    mean_row(row(level - 1, image, 2 * y), columns(level), shape.classes, plane(level),
             row(level, image, y));
  }

  // Row y of a level and all that it is made of, depth first: rows are still in cache when the
  // level above reads them.
  void build(std::size_t level, std::size_t image, std::size_t y, std::uint8_t* scratch) const {
    if (level == 1) return count(image, y, scratch);
    build(level - 1, image, 2 * y, scratch);
    build(level - 1, image, 2 * y + 1, scratch);
    mean(level, image, y);
  }
};

}  // namespace

std::size_t first_invalid_id(const std::uint8_t* labels, std::size_t count, std::size_t classes) {
  // The largest id alone says whether all are valid, and finding it vectorises; a search does not.
  std::uint8_t largest = 0;
  for (std::size_t i = 0; i < count; ++i) largest = std::max(largest, labels[i]);
  if (largest < classes) return count;
  const auto* found = std::find_if(labels, labels + count, [=](auto id) { return id >= classes; });
  return static_cast<std::size_t>(found - labels);
}

void label_pyramid(const std::uint8_t* labels, const PyramidShape& shape, float* const* maps,
                   std::size_t threads) {
  if (shape.levels == 0) return;
  const Pyramid pyramid{labels, shape, maps};

  // Threads share the rows of the coarsest level that has enough of them to keep all busy; the
  // levels above it are a small remainder, done afterwards.
  std::size_t shared = shape.levels;
  while (shared > 1 && shape.batch * pyramid.rows(shared) < 4 * threads) --shared;

  const std::size_t rows = pyramid.rows(shared);
  threads = std::clamp(threads, std::size_t{1}, shape.batch * rows);
  const std::size_t scratch_bytes = 2 * shape.width;
  std::vector<std::uint8_t> scratch(threads * scratch_bytes);
  parallel_for(shape.batch * rows, threads, [&](std::size_t worker, std::size_t i) {
    pyramid.build(shared, i / rows, i % rows, scratch.data() + worker * scratch_bytes);
  });
  for (std::size_t level = shared + 1; level <= shape.levels; ++level) {
    for (std::size_t image = 0; image < shape.batch; ++image) {
      for (std::size_t y = 0; y < pyramid.rows(level); ++y) pyramid.mean(level, image, y);
    }
  }
}

}  // namespace crn
