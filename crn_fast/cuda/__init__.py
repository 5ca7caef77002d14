"""The CUDA driver as TensorRT's plans and our own compiled kernels need it: no torch, no compiler.

`library` calls the driver's own library, `driver` holds a GPU's context, memory and streams through
pycuda or cuda.core, `pipeline` keeps two batches in flight. Importing them costs nothing.
"""
