// One vector of floats, as wide as the instruction set that the including file is compiled for.
//
// A file defines CRN_ISA (its own namespace) and CRN_WIDTH (floats a vector) before it includes
// this. Everything here and in the *_kernel.h files lives in that namespace and calls no function
// template of the standard library: the linker would keep one copy of those for all files, and it
// could be one that this CPU does not understand.
#pragma once

#include <cstddef>

#if defined(__clang__)
#define CRN_UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define CRN_UNROLL _Pragma("GCC unroll 64")
#else
#define CRN_UNROLL
#endif

namespace crn::CRN_ISA {

constexpr std::size_t kWidth = CRN_WIDTH;

#if defined(__GNUC__)
typedef float Vec __attribute__((vector_size(4 * CRN_WIDTH)));
typedef float AnyAddress __attribute__((vector_size(4 * CRN_WIDTH), aligned(4), may_alias));

inline Vec load(const float* from) { return *reinterpret_cast<const AnyAddress*>(from); }
inline void store(float* to, Vec x) { *reinterpret_cast<AnyAddress*>(to) = x; }
inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }
#else
struct Vec {
  float lane[CRN_WIDTH];
  float operator[](std::size_t i) const { return lane[i]; }
};

inline Vec load(const float* from) {
  Vec x;
  for (std::size_t i = 0; i < kWidth; ++i) x.lane[i] = from[i];
  return x;
}
inline void store(float* to, Vec x) {
  for (std::size_t i = 0; i < kWidth; ++i) to[i] = x.lane[i];
}
inline Vec larger(Vec a, Vec b) {
  for (std::size_t i = 0; i < kWidth; ++i)
    a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
  return a;
}
inline Vec operator+(Vec a, Vec b) {
  for (std::size_t i = 0; i < kWidth; ++i) a.lane[i] += b.lane[i];
  return a;
}
inline Vec operator-(Vec a, Vec b) {
  for (std::size_t i = 0; i < kWidth; ++i) a.lane[i] -= b.lane[i];
  return a;
}
inline Vec operator*(Vec a, Vec b) {
  for (std::size_t i = 0; i < kWidth; ++i) a.lane[i] *= b.lane[i];
  return a;
}
inline Vec operator*(float a, Vec b) {
  for (std::size_t i = 0; i < kWidth; ++i) b.lane[i] *= a;
  return b;
}
inline Vec& operator+=(Vec& a, Vec b) { return a = a + b; }
#endif

inline Vec zero() { return Vec{}; }

constexpr std::size_t smaller(std::size_t a, std::size_t b) { return a < b ? a : b; }

// Leaky ReLU of raw * scale + shift.
inline Vec activate(Vec raw, Vec scale, Vec shift) {
  const Vec x = raw * scale + shift;
  return larger(x, 0.2f * x);
}

}  // namespace crn::CRN_ISA
