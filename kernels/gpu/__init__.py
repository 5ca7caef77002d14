"""The ops in Triton, for NVIDIA GPUs from sm_80 on.

Importing this package costs nothing; its modules import torch and Triton. One file an op holds its
launcher: `label_pyramid`, `refine`, `conv`, `head`. The kernels they share: `convolve` (3x3
convolution of an activated map), `on_load` (the same, activating as it reads), `apply` (the pass
that activates), `statistics`; their building blocks are in `tile`. `tuning` chooses tiles and forms
and is pure arithmetic; `queue` allocates and launches; `ahead` compiles without a GPU.

Nothing here has run on a GPU: the kernels run in Triton's interpreter and are compiled for sm_80 to
sm_120.
"""
