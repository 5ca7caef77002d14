// The kernels for AVX-512 (F).

#define CRN_ISA avx512
#define CRN_WIDTH 16
#define CRN_ROWS 14  // x 2 vectors: 28 of 32 registers

#include "convolution_kernel.h"
#include "head_kernel.h"

namespace crn {

extern const Kernels kAvx512 = {"avx512", avx512::kRows, avx512::load_any, avx512::multiply_any,
                                avx512::head_row};

}  // namespace crn
