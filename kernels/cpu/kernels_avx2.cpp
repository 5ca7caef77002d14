// The kernels for AVX2 and FMA.

#define CRN_ISA avx2
#define CRN_WIDTH 8
#define CRN_ROWS 6  // x 2 vectors: 12 of 16 registers

#include "convolution_kernel.h"
#include "head_kernel.h"

namespace crn {

extern const Kernels kAvx2 = {"avx2", avx2::kRows, avx2::load_any, avx2::multiply_any,
                              avx2::head_row};

}  // namespace crn
