// The kernels for the vectors of any CPU.

#define CRN_ISA portable
#define CRN_WIDTH 4
#define CRN_ROWS 3  // x 4 vectors: 12 of 16 registers

#include "convolution_kernel.h"
#include "head_kernel.h"

namespace crn {

extern const Kernels kPortable = {"portable", portable::kRows, portable::load_any,
                                  portable::multiply_any, portable::head_row};

}  // namespace crn
