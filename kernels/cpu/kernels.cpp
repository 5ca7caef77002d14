#include "kernels.h"

namespace crn {
namespace {

std::vector<const Kernels*> usable() {
  std::vector<const Kernels*> found;
#if CRN_X86
  if (__builtin_cpu_supports("avx512f")) found.push_back(&kAvx512);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&kAvx2);
#endif
  found.push_back(&kPortable);
  return found;
}

}  // namespace

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (const Kernels* kernels : usable()) names.emplace_back(kernels->name);
  return names;
}

const Kernels* find_kernels(const std::string& name) {
  for (const Kernels* kernels : usable()) {
    if (name.empty() || name == kernels->name) return kernels;
  }
  return nullptr;
}

}  // namespace crn
