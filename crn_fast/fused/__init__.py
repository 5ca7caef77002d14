"""What the backend `fused` is made of: packed weights, the op table, and frames on a device.

Importing this package costs nothing; its modules import torch, and `ops` and `frame` Triton.
"""
