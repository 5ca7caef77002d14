// What Python sees of the C++ ops: checks and conversions, no arithmetic on the data.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <string>
#include <vector>

#include "label_pyramid.h"

namespace nb = nanobind;

namespace {

using Array = nb::ndarray<nb::ro, nb::device::cpu>;

[[noreturn]] void fail(const std::string& message) { throw nb::value_error(message.c_str()); }

std::string text(nb::handle value) { return nb::str(value).c_str(); }

std::string sizes(const std::vector<std::size_t>& values) {
  std::string list;
  for (const std::size_t value : values) {
    list += (list.empty() ? "" : ", ") + std::to_string(value);
  }
  return "[" + list + "]";
}

std::size_t in_range(const char* name, std::int64_t value, std::size_t low, std::size_t high) {
  if (value < static_cast<std::int64_t>(low) || value > static_cast<std::int64_t>(high)) {
    fail(std::string("label_pyramid: ") + name + " is " + std::to_string(value) + "; expected " +
         std::to_string(low) + " to " + std::to_string(high));
  }
  return static_cast<std::size_t>(value);
}

// The label map as an array whose memory is known to be [N, H, W] uint8 in C order.
Array label_map(nb::handle labels) {
  if (!nb::hasattr(labels, "dtype") || !nb::hasattr(labels, "shape")) {
    fail("label_pyramid: labels is a " + text(labels.type()) +
         "; expected a numpy array, uint8 [N, H, W]");
  }
  Array array;
  if (!nb::try_cast(nb::borrow(labels), array, false) ||
      array.dtype() != nb::dtype<std::uint8_t>()) {
    fail("label_pyramid: labels has dtype " + text(labels.attr("dtype")) + "; expected uint8");
  }
  if (array.ndim() != 3 || array.size() == 0) {
    fail("label_pyramid: labels has shape " + text(labels.attr("shape")) +
         "; expected [N, H, W], each at least 1");
  }
  std::int64_t stride = 1;
  for (std::size_t axis = 3; axis-- > 0; stride *= static_cast<std::int64_t>(array.shape(axis))) {
    if (array.shape(axis) > 1 && array.stride(axis) != stride) {
      fail("label_pyramid: labels has a stride of " + std::to_string(array.stride(axis)) +
           " on axis " + std::to_string(axis) + "; expected " + std::to_string(stride) +
           " (C order: numpy.ascontiguousarray)");
    }
  }
  return array;
}

nb::list label_pyramid(nb::handle labels, std::int64_t classes, std::int64_t levels,
                       std::int64_t threads) {
  const Array array = label_map(labels);
  const crn::PyramidShape shape{
      array.shape(0),
      array.shape(1),
      array.shape(2),
      in_range("classes", classes, 1, crn::kMaxClasses),
      in_range("levels", levels, 0, crn::kMaxLevels),
  };
  const std::size_t workers = in_range("threads", threads, 0, 65536);
  const std::size_t block = std::size_t{1} << shape.levels;
  if (shape.height % block != 0 || shape.width % block != 0) {
    fail("label_pyramid: labels is " + std::to_string(shape.height) + " x " +
         std::to_string(shape.width) + "; expected sides divisible by " + std::to_string(block) +
         " for " + std::to_string(shape.levels) + " levels");
  }

  const auto* ids = static_cast<const std::uint8_t*>(array.data());
  std::size_t invalid;
  {
    nb::gil_scoped_release release;
    invalid = crn::first_invalid_id(ids, array.size(), shape.classes);
  }
  if (invalid != array.size()) {
    const std::size_t row = invalid / shape.width;
    fail("label_pyramid: label " + std::to_string(ids[invalid]) + " at " +
         sizes({row / shape.height, row % shape.height, invalid % shape.width}) +
         " (image, row, column); expected ids below " + std::to_string(shape.classes));
  }

  const nb::object empty = nb::module_::import_("numpy").attr("empty");
  nb::list coarse_to_fine;
  std::vector<float*> maps(shape.levels);
  for (std::size_t level = shape.levels; level >= 1; --level) {
    const nb::object map = empty(
        nb::make_tuple(shape.batch, shape.classes, shape.height >> level, shape.width >> level),
        "float32");
    maps[level - 1] = nb::cast<nb::ndarray<float, nb::c_contig, nb::device::cpu>>(map).data();
    coarse_to_fine.append(map);
  }
  {
    nb::gil_scoped_release release;
    crn::label_pyramid(ids, shape, maps.data(), workers);
  }
  return coarse_to_fine;
}

}  // namespace

NB_MODULE(_native, module) {
  module.def("label_pyramid", &label_pyramid, nb::arg("labels").none(), nb::arg("classes"),
             nb::arg("levels"), nb::arg("threads"));
}
