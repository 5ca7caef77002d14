"""The ops of the cascade, each with its oracle. Nothing here imports from crn_fast outside kernels.

Importing this package costs nothing: torch, Triton and the compiled module are imported by the
function that needs them.
"""
