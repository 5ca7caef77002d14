// The 3x3 convolution of one tile as element-wise products between two small linear transforms.
//
// F(m x m, 3x3): an input tile of (m + 2) x (m + 2) becomes as many positions, the weights too
// (when they are packed), and m x m outputs come from their products: (m + 2)^2 / m^2
// multiplications for each output in place of 9. F(1x1) is the direct convolution, in the same
// form. Transforms are separable; these are their one-dimensional halves, from `from` at a step to
// `to` at a step.
//
// Source: Lavin & Gray 2015, "Fast Algorithms for Convolutional Neural Networks"; points 0, +-1,
// +-2, (+-1/2), infinity.
#pragma once

#include "simd.h"

namespace crn::CRN_ISA {

struct Direct {
  static constexpr int kIn = 3, kOut = 1;

  static void input(const Vec* from, int step, Vec* to, int to_step) {
    for (int i = 0; i < 3; ++i) to[i * to_step] = from[i * step];
  }
  static void output(const Vec* from, int step, Vec* to, int) {
    to[0] = from[0] + from[step] + from[2 * step];
  }
};

struct Winograd4 {
  static constexpr int kIn = 6, kOut = 4;

  static void input(const Vec* from, int step, Vec* to, int to_step) {
    const Vec d0 = from[0], d1 = from[step], d2 = from[2 * step], d3 = from[3 * step],
              d4 = from[4 * step], d5 = from[5 * step];
    const Vec even = d4 - 4.0f * d2, odd = d3 - 4.0f * d1;
    const Vec even2 = d4 - d2, odd2 = 2.0f * (d3 - d1);
    to[0] = 4.0f * d0 - 5.0f * d2 + d4;
    to[to_step] = even + odd;
    to[2 * to_step] = even - odd;
    to[3 * to_step] = even2 + odd2;
    to[4 * to_step] = even2 - odd2;
    to[5 * to_step] = 4.0f * d1 - 5.0f * d3 + d5;
  }
  static void output(const Vec* from, int step, Vec* to, int to_step) {
    const Vec m1 = from[step], m2 = from[2 * step], m3 = from[3 * step], m4 = from[4 * step];
    const Vec sum1 = m1 + m2, difference1 = m1 - m2, sum2 = m3 + m4, difference2 = m3 - m4;
    to[0] = from[0] + sum1 + sum2;
    to[to_step] = difference1 + 2.0f * difference2;
    to[2 * to_step] = sum1 + 4.0f * sum2;
    to[3 * to_step] = difference1 + 8.0f * difference2 + from[5 * step];
  }
};

struct Winograd6 {
  static constexpr int kIn = 8, kOut = 6;

  static void input(const Vec* from, int step, Vec* to, int to_step) {
    const Vec d0 = from[0], d1 = from[step], d2 = from[2 * step], d3 = from[3 * step],
              d4 = from[4 * step], d5 = from[5 * step], d6 = from[6 * step], d7 = from[7 * step];
    const Vec even1 = d2 + d6 - 4.25f * d4, odd1 = d1 + d5 - 4.25f * d3;
    const Vec even2 = d6 + 0.25f * d2 - 1.25f * d4, odd2 = 0.5f * d1 - 2.5f * d3 + 2.0f * d5;
    const Vec even3 = d6 + 4.0f * d2 - 5.0f * d4, odd3 = 2.0f * d1 - 2.5f * d3 + 0.5f * d5;
    to[0] = d0 - d6 + 5.25f * (d4 - d2);
    to[to_step] = even1 + odd1;
    to[2 * to_step] = even1 - odd1;
    to[3 * to_step] = even2 + odd2;
    to[4 * to_step] = even2 - odd2;
    to[5 * to_step] = even3 + odd3;
    to[6 * to_step] = even3 - odd3;
    to[7 * to_step] = d7 - d1 + 5.25f * (d3 - d5);
  }
  static void output(const Vec* from, int step, Vec* to, int to_step) {
    const Vec s1 = from[step] + from[2 * step], t1 = from[step] - from[2 * step];
    const Vec s2 = from[3 * step] + from[4 * step], t2 = from[3 * step] - from[4 * step];
    const Vec s3 = from[5 * step] + from[6 * step], t3 = from[5 * step] - from[6 * step];
    to[0] = from[0] + s1 + s2 + s3;
    to[to_step] = t1 + 2.0f * t2 + 0.5f * t3;
    to[2 * to_step] = s1 + 4.0f * s2 + 0.25f * s3;
    to[3 * to_step] = t1 + 8.0f * t2 + 0.125f * t3;
    to[4 * to_step] = s1 + 16.0f * s2 + 0.0625f * s3;
    to[5 * to_step] = t1 + 32.0f * t2 + 0.03125f * t3 + from[7 * step];
  }
};

// Both dimensions: [n][n] -> [m][m], by a half that takes n values to m.
template <int N, int M, class Half>
void transform(const Vec* from, Vec* to, const Half& half) {
  Vec between[M * N];
  CRN_UNROLL for (int j = 0; j < N; ++j) half(from + j, N, between + j, N);
  CRN_UNROLL for (int i = 0; i < M; ++i) half(between + i * N, 1, to + i * M, 1);
}

}  // namespace crn::CRN_ISA
