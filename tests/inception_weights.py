"""Random weights of a narrow Inception front, that tests share."""

from __future__ import annotations

import torch

WIDTH = 2


def make_weights() -> dict[str, torch.Tensor]:
    """Named as in the released network, every convolution WIDTH channels wide."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}

    def add(name: str, inputs: int, kernel: tuple[int, int]) -> None:
        fan = inputs * kernel[0] * kernel[1]
        weight = torch.randn(WIDTH, inputs, *kernel, generator=generator)
        state[f"{name}.weight"] = weight * (2 / fan) ** 0.5
        state[f"{name}.bias"] = torch.rand(WIDTH, generator=generator) / 2

    def add_tower(name: str, inputs: int, *kernels: tuple[int, int]) -> None:
        for i, kernel in enumerate(kernels):
            add(name + (f"_{i}" if i else ""), inputs if i == 0 else WIDTH, kernel)

    one, three, five, row, column = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1)
    add_tower("conv", 3, three, three, three, one, three)
    inputs = WIDTH
    for block in ("mixed", "mixed_1", "mixed_2"):
        add_tower(f"{block}_conv", inputs, one)
        add_tower(f"{block}_tower_conv", inputs, one, five)
        add_tower(f"{block}_tower_1_conv", inputs, one, three, three)
        add_tower(f"{block}_tower_2_conv", inputs, one)
        inputs = 4 * WIDTH
    add_tower("mixed_3_conv", inputs, three)
    add_tower("mixed_3_tower_conv", inputs, one, three, three)
    inputs += 2 * WIDTH
    for block in ("mixed_4", "mixed_5", "mixed_6", "mixed_7"):
        add_tower(f"{block}_conv", inputs, one)
        add_tower(f"{block}_tower_conv", inputs, one, row, column)
        add_tower(f"{block}_tower_1_conv", inputs, one, column, row, column, row)
        add_tower(f"{block}_tower_2_conv", inputs, one)
        inputs = 4 * WIDTH
    return state
