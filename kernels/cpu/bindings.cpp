// What Python sees of the C++ ops: checks and conversions, no arithmetic on the data.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "convolution.h"
#include "exiting.h"
#include "head.h"
#include "kernels.h"
#include "label_pyramid.h"
#include "packing.h"

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

std::size_t in_range(const char* op, const char* name, std::int64_t value, std::size_t low,
                     std::size_t high) {
  if (value < static_cast<std::int64_t>(low) || value > static_cast<std::int64_t>(high)) {
    fail(std::string(op) + ": " + name + " is " + std::to_string(value) + "; expected " +
         std::to_string(low) + " to " + std::to_string(high));
  }
  return static_cast<std::size_t>(value);
}

constexpr std::size_t kAny = 0;  // a side that may have any length of at least 1
constexpr std::size_t kMaxThreads = 65536;

// An array whose memory is known to be of the dtype and shape, in C order.
//
// names     of the sides, for messages: "[N, H, W]"
// shape     of each side, the length it must have, or kAny
template <class T>
Array checked(const char* op, const char* name, nb::handle value, const char* names,
              const std::vector<std::size_t>& shape, bool may_be_empty = false) {
  const std::string what = std::string(op) + ": " + name;
  const std::string dtype = nb::dtype<T>() == nb::dtype<float>() ? "float32" : "uint8";
  if (!nb::hasattr(value, "dtype") || !nb::hasattr(value, "shape")) {
    fail(what + " is a " + text(value.type()) + "; expected a numpy array, " + dtype + " " + names);
  }
  Array array;
  if (!nb::try_cast(nb::borrow(value), array, false) || array.dtype() != nb::dtype<T>()) {
    fail(what + " has dtype " + text(value.attr("dtype")) + "; expected " + dtype);
  }
  bool fits = array.ndim() == shape.size() && (may_be_empty || array.size() > 0);
  std::string lengths;
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    fits = fits && (shape[axis] == kAny || array.shape(axis) == shape[axis]);
    lengths += (axis ? ", " : "") + (shape[axis] ? std::to_string(shape[axis]) : "any");
  }
  if (!fits) {
    const bool fixed = std::any_of(shape.begin(), shape.end(), [](auto n) { return n != kAny; });
    fail(what + " has shape " + text(value.attr("shape")) + "; expected " + names +
         (fixed ? " = [" + lengths + "]" : "") + ", each at least 1");
  }
  std::int64_t stride = 1;
  for (std::size_t axis = array.ndim(); array.size() > 0 && axis-- > 0;) {
    if (array.shape(axis) > 1 && array.stride(axis) != stride) {
      fail(what + " has a stride of " + std::to_string(array.stride(axis)) + " on axis " +
           std::to_string(axis) + "; expected " + std::to_string(stride) +
           " (C order: numpy.ascontiguousarray)");
    }
    stride *= static_cast<std::int64_t>(array.shape(axis));
  }
  if (array.size() > 0 && reinterpret_cast<std::uintptr_t>(array.data()) % alignof(T) != 0) {
    fail(what + " does not begin at a multiple of " + std::to_string(alignof(T)) +
         " bytes; expected aligned memory (numpy.array copies into it)");
  }
  return array;
}

const float* floats(const Array& array) { return static_cast<const float*>(array.data()); }

// A new numpy array; numpy raises MemoryError, with the size, where there is no room.
template <class T>
nb::object empty(const nb::tuple& shape, T** data) {
  const char* dtype = nb::dtype<T>() == nb::dtype<float>() ? "float32" : "uint8";
  nb::object array = nb::module_::import_("numpy").attr("empty")(shape, dtype);
  *data = nb::cast<nb::ndarray<T, nb::c_contig, nb::device::cpu>>(array).data();
  return array;
}

struct Input {
  const char* name;
  const Array& array;  // may be null
};

// Memory for an op's output: the beginning of `out`, or where that is None a new array.
// It must not overlap the inputs.
nb::object room(const char* op, nb::handle out, const nb::tuple& shape,
                std::initializer_list<Input> inputs, float** data) {
  if (out.is_none()) return empty(shape, data);
  const Array memory = checked<float>(op, "out", out, "[floats]", {kAny});
  std::size_t wanted = 1;
  for (nb::handle side : shape) {
    const auto length = nb::cast<std::size_t>(side);
    if (wanted > SIZE_MAX / sizeof(float) / length) {
      fail(std::string(op) + ": its output is larger than any memory");
    }
    wanted *= length;
  }
  const bool writeable = nb::hasattr(out, "flags") &&  // which only numpy's arrays have
                         nb::cast<bool>(out.attr("flags").attr("writeable"));
  if (memory.size() < wanted || !writeable) {
    fail(std::string(op) + ": out has " + std::to_string(memory.size()) +
         " floats; expected at least " + std::to_string(wanted) + " that may be written");
  }
  const float* first = floats(memory);
  const auto* begin = reinterpret_cast<const char*>(first);
  for (const auto& [name, array] : inputs) {
    if (!array.is_valid()) continue;
    const auto* other = static_cast<const char*>(array.data());
    if (begin < other + array.nbytes() && other < begin + wanted * sizeof(float)) {
      fail(std::string(op) + ": out overlaps " + name + "; expected other memory");
    }
  }
  const nb::object part =
      out.attr("__getitem__")(nb::slice(std::size_t{0}, wanted, std::size_t{1}));
  nb::object array = part.attr("reshape")(shape);
  *data = const_cast<float*>(first);
  return array;
}

// Checks the ids of a label map [N, H, W], each of which must be below `classes`.
//
// labels   of which `ids` is the memory, or a copy
void check_ids(const char* op, const Array& labels, const std::uint8_t* ids, std::size_t classes) {
  std::size_t invalid;
  {
    const crn::Unlocked unlocked;
    invalid = crn::first_invalid_id(ids, labels.size(), classes);
  }
  if (invalid == labels.size()) return;
  const std::size_t height = labels.shape(1), width = labels.shape(2), row = invalid / width;
  fail(std::string(op) + ": label " + std::to_string(ids[invalid]) + " at " +
       sizes({row / height, row % height, invalid % width}) +
       " (image, row, column); expected ids below " + std::to_string(classes));
}

const crn::Kernels& kernels_of(const char* op, const std::string& isa) {
  const crn::Kernels* found = crn::find_kernels(isa);
  if (!found) {
    fail(std::string(op) + ": isa is '" + isa + "'; expected one that this CPU runs, of " +
         text(nb::cast(crn::kernel_names())));
  }
  return *found;
}

nb::list label_pyramid(nb::handle labels, std::int64_t classes, std::int64_t levels,
                       std::int64_t threads) {
  const char* op = "label_pyramid";
  const Array array = checked<std::uint8_t>(op, "labels", labels, "[N, H, W]", {kAny, kAny, kAny});
  const crn::PyramidShape shape{
      array.shape(0),
      array.shape(1),
      array.shape(2),
      in_range(op, "classes", classes, 1, crn::kMaxClasses),
      in_range(op, "levels", levels, 0, crn::kMaxLevels),
  };
  const std::size_t workers = in_range(op, "threads", threads, 0, kMaxThreads);
  const std::size_t block = std::size_t{1} << shape.levels;
  if (shape.height % block != 0 || shape.width % block != 0) {
    fail("label_pyramid: labels is " + std::to_string(shape.height) + " x " +
         std::to_string(shape.width) + "; expected sides divisible by " + std::to_string(block) +
         " for " + std::to_string(shape.levels) + " levels");
  }

  const auto* ids = static_cast<const std::uint8_t*>(array.data());
  check_ids(op, array, ids, shape.classes);
  nb::list coarse_to_fine;
  std::vector<float*> maps(shape.levels);
  for (std::size_t level = shape.levels; level >= 1; --level) {
    const nb::object map = empty<float>(
        nb::make_tuple(shape.batch, shape.classes, shape.height >> level, shape.width >> level),
        &maps[level - 1]);
    coarse_to_fine.append(map);
  }
  {
    const crn::Unlocked unlocked;
    crn::label_pyramid(ids, shape, maps.data(), workers);
  }
  return coarse_to_fine;
}

// refine (`upsampling` is a method) and conv (`upsampling` is None).
nb::tuple convolve(nb::handle raw, nb::handle scale, nb::handle shift, nb::handle layout,
                   nb::handle weight, nb::handle table, nb::handle gamma, nb::handle beta,
                   std::optional<std::string> upsampling, std::int64_t threads,
                   const std::string& isa, nb::handle memory) {
  const char* op = upsampling ? "refine" : "conv";
  const crn::Kernels& kernels = kernels_of(op, isa);
  const std::size_t workers = in_range(op, "threads", threads, 0, kMaxThreads);
  if (upsampling && *upsampling != "align_corners" && *upsampling != "half_pixel") {
    fail("refine: upsampling is '" + *upsampling + "'; expected align_corners or half_pixel");
  }
  crn::Convolution c{};
  Array raw_array, scale_array, shift_array, layout_array, table_array;
  // Each id is an address in the table, and other Python threads may write to the caller's array
  // after it was checked.
  std::vector<std::uint8_t> own_ids;
  if (!raw.is_none() || !upsampling) {  // only `refine` may have a layout alone
    raw_array = checked<float>(op, "raw", raw, "[N, H, W, C]", {kAny, kAny, kAny, kAny});
    c.batch = raw_array.shape(0);
    c.source_height = raw_array.shape(1);
    c.source_width = raw_array.shape(2);
    c.features = raw_array.shape(3);
    if (c.features % crn::kPanel != 0) {
      fail(std::string(op) + ": raw has " + std::to_string(c.features) +
           " channels; expected a multiple of 16 (zeros in the padding)");
    }
    scale_array = checked<float>(op, "scale", scale, "[N, C]", {c.batch, c.features});
    shift_array = checked<float>(op, "shift", shift, "[N, C]", {c.batch, c.features});
    c.raw = floats(raw_array);
    c.scale = floats(scale_array);
    c.shift = floats(shift_array);
    c.height = c.source_height;
    c.width = c.source_width;
  }
  const Array gamma_array = checked<float>(op, "gamma", gamma, "[C_out]", {kAny});
  c.outputs = gamma_array.shape(0);
  const Array beta_array = checked<float>(op, "beta", beta, "[C_out]", {c.outputs});
  c.padded = crn::round_up(c.outputs, crn::kPanel);
  c.gamma = floats(gamma_array);
  c.beta = floats(beta_array);
  if (upsampling) {
    const bool aligned = *upsampling == "align_corners";
    c.upsampling = aligned ? crn::Upsampling::kAlignCorners : crn::Upsampling::kHalfPixel;
    const std::size_t batch = c.raw ? c.batch : kAny;
    const std::size_t height = c.raw ? 2 * c.height : kAny, width = c.raw ? 2 * c.width : kAny;
    const bool ids = nb::hasattr(layout, "dtype") && text(layout.attr("dtype")) == "uint8";
    if (ids) {
      table_array = checked<float>(op, "table", table, "[10, classes, C]", {10, kAny, c.padded});
      c.classes = in_range(op, "classes", static_cast<std::int64_t>(table_array.shape(1)), 1,
                           crn::kMaxClasses);
      c.table = floats(table_array);
      layout_array =
          checked<std::uint8_t>(op, "layout", layout, "[N, H, W]", {batch, height, width});
      const auto* given = static_cast<const std::uint8_t*>(layout_array.data());
      own_ids.assign(given, given + layout_array.size());
      check_ids(op, layout_array, own_ids.data(), c.classes);
      c.ids = own_ids.data();
    } else {
      layout_array =
          checked<float>(op, "layout", layout, "[N, classes, H, W]", {batch, kAny, height, width});
      c.classes = layout_array.shape(1);
      c.soft = floats(layout_array);
    }
    c.batch = layout_array.shape(0);
    c.height = layout_array.shape(layout_array.ndim() - 2);
    c.width = layout_array.shape(layout_array.ndim() - 1);
  }
  c.inputs = c.features + (c.soft ? c.classes : 0);
  const Array weight_array =
      checked<float>(op, "weight", weight, "[C_out / 16, positions, C_in, 16]",
                     {c.padded / crn::kPanel, kAny, c.inputs, crn::kPanel}, c.inputs == 0);
  c.positions = weight_array.shape(1);
  if (c.positions != 9 && c.positions != 36 && c.positions != 64) {
    fail(std::string(op) + ": weight has " + std::to_string(c.positions) +
         " positions; expected 9 (direct), 36 (F4x4) or 64 (F6x6)");
  }
  c.weights = floats(weight_array);

  const nb::tuple pending = nb::make_tuple(c.batch, c.padded);
  const nb::object out = room(op, memory, nb::make_tuple(c.batch, c.height, c.width, c.padded),
                              {{"raw", raw_array},
                               {"scale", scale_array},
                               {"shift", shift_array},
                               {"layout", layout_array},
                               {"weight", weight_array},
                               {"table", table_array},
                               {"gamma", gamma_array},
                               {"beta", beta_array}},
                              &c.out);
  const nb::object out_scale = empty(pending, &c.out_scale);
  const nb::object out_shift = empty(pending, &c.out_shift);
  {
    const crn::Unlocked unlocked;
    crn::convolve(c, kernels, workers);
  }
  return nb::make_tuple(out, out_scale, out_shift);
}

nb::object head(nb::handle raw, nb::handle scale, nb::handle shift, nb::handle weight,
                nb::handle bias, std::int64_t threads, const std::string& isa) {
  const char* op = "head";
  const crn::Kernels& kernels = kernels_of(op, isa);
  const std::size_t workers = in_range(op, "threads", threads, 0, kMaxThreads);
  const Array raw_array = checked<float>(op, "raw", raw, "[N, H, W, C]", {kAny, kAny, kAny, kAny});
  crn::Head h{};
  h.batch = raw_array.shape(0);
  h.height = raw_array.shape(1);
  h.width = raw_array.shape(2);
  h.features = raw_array.shape(3);
  if (h.features % crn::kPanel != 0) {
    fail("head: raw has " + std::to_string(h.features) +
         " channels; expected a multiple of 16 (zeros in the padding)");
  }
  const Array scale_array = checked<float>(op, "scale", scale, "[N, C]", {h.batch, h.features});
  const Array shift_array = checked<float>(op, "shift", shift, "[N, C]", {h.batch, h.features});
  const Array bias_array = checked<float>(op, "bias", bias, "[3K]", {kAny});
  if (bias_array.size() % 3 != 0) {
    fail("head: bias has " + std::to_string(bias_array.size()) +
         " values; expected three an image");
  }
  h.images = bias_array.size() / 3;
  const Array weight_array = checked<float>(
      op, "weight", weight, "[3K / 16, C, 16]",
      {crn::round_up(bias_array.size(), crn::kPanel) / crn::kPanel, h.features, crn::kPanel});
  h.raw = floats(raw_array);
  h.scale = floats(scale_array);
  h.shift = floats(shift_array);
  h.weights = floats(weight_array);
  h.bias = floats(bias_array);
  const nb::object rgb = empty(nb::make_tuple(h.batch, h.images, h.height, h.width, 3), &h.out);
  {
    const crn::Unlocked unlocked;
    crn::head(h, kernels, workers);
  }
  return rgb;
}

nb::object to_uint8(nb::handle rgb, std::int64_t threads) {
  const char* op = "to_uint8";
  const std::size_t workers = in_range(op, "threads", threads, 0, kMaxThreads);
  const Array array =
      checked<float>(op, "rgb", rgb, "[N, K, H, W, 3]", {kAny, kAny, kAny, kAny, 3});
  std::uint8_t* out;
  const nb::object pictures = empty(nb::make_tuple(array.shape(0), array.shape(1), array.shape(2),
                                                   array.shape(3), array.shape(4)),
                                    &out);
  {
    const crn::Unlocked unlocked;
    crn::to_uint8(floats(array), array.size(), workers, out);
  }
  return pictures;
}

nb::object pack(nb::handle weight, std::int64_t features, std::int64_t multiplied,
                std::int64_t side, std::int64_t threads) {
  const char* op = "pack";
  const Array array =
      checked<float>(op, "weight", weight, "[C_out, C_in, 3, 3]", {kAny, kAny, 3, 3});
  crn::Packing p{};
  p.weight = floats(array);
  p.outputs = array.shape(0);
  p.inputs = array.shape(1);
  p.features = in_range(op, "features", features, 0, p.inputs);
  p.multiplied = in_range(op, "multiplied", multiplied, p.features, p.inputs);
  p.side = in_range(op, "tile", side, 1, 6);
  if (p.side != 1 && p.side != 4 && p.side != 6) {
    fail("pack: tile is " + std::to_string(p.side) + "; expected 1, 4 or 6");
  }
  const std::size_t workers = in_range(op, "threads", threads, 0, kMaxThreads);
  const nb::object packed =
      empty(nb::make_tuple(crn::round_up(p.outputs, crn::kPanel) / crn::kPanel,
                           (p.side + 2) * (p.side + 2), crn::packed_inputs(p), crn::kPanel),
            &p.out);
  {
    const crn::Unlocked unlocked;
    crn::pack(p, workers);
  }
  return packed;
}

}  // namespace

NB_MODULE(_native, module) {
  module.def("label_pyramid", &label_pyramid, nb::arg("labels").none(), nb::arg("classes"),
             nb::arg("levels"), nb::arg("threads"));
  module.def("convolve", &convolve, nb::arg("raw").none(), nb::arg("scale").none(),
             nb::arg("shift").none(), nb::arg("layout").none(), nb::arg("weight").none(),
             nb::arg("table").none(), nb::arg("gamma").none(), nb::arg("beta").none(),
             nb::arg("upsampling").none(), nb::arg("threads"), nb::arg("isa"),
             nb::arg("out").none());
  module.def("head", &head, nb::arg("raw").none(), nb::arg("scale").none(), nb::arg("shift").none(),
             nb::arg("weight").none(), nb::arg("bias").none(), nb::arg("threads"), nb::arg("isa"));
  module.def("to_uint8", &to_uint8, nb::arg("rgb").none(), nb::arg("threads"));
  module.def("pack", &pack, nb::arg("weight").none(), nb::arg("features"), nb::arg("multiplied"),
             nb::arg("tile"), nb::arg("threads"));
  module.def("instruction_sets", &crn::kernel_names);

  Py_AtExit(&crn::Unlocked::finish);
  const nb::module_ os = nb::module_::import_("os");
  if (nb::hasattr(os, "register_at_fork")) {
    os.attr("register_at_fork")(nb::arg("after_in_child") =
                                    nb::cpp_function(&crn::Unlocked::forget));
  }
}
