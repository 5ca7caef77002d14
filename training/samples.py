"""Sample pictures of a run: fixed layouts as the network renders them while it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from crn_fast import image, layout
from crn_fast.kernels import reference
from crn_fast.training import data

COUNT = 4
"""Layouts."""
PANEL_WIDTH = 512
"""Pixels; wider pictures are reduced."""
COLUMNS = 8
"""Renders on the sheet; of more, evenly spaced ones are shown."""


def choose(pairs: list[data.Pair]) -> list[data.Pair]:
    """At most COUNT pairs, evenly spread."""
    count = min(COUNT, len(pairs))
    return [pairs[i * len(pairs) // count] for i in range(count)]


class Samples:
    """The chosen layouts, read once so that a fault in them shows before the first step."""

    def __init__(self, windows: data.Windows, folder: Path) -> None:
        """Take the validation data and the folder for step_<n>.png and sheet.png."""
        self.folder, self.size = folder, windows.size
        self.labels, panels = [], []
        for pair in choose(windows.pairs[0]):
            window = windows.window(pair)
            labels = data.fit_labels(window.labels, windows.size, windows.labels.classes)
            colors = layout.colorize(layout.from_array(labels.numpy(), windows.labels))
            panels.append(np.hstack([self._panel(colors), self._panel(window.photo.numpy())]))
            self.labels.append(labels)
        self.given = np.vstack(panels)

    def render(self, network: nn.Module, device: str, step: int) -> None:
        """Write step_<n>.png (first image of each layout) and sheet.png: layout | photo | steps."""
        column = np.vstack(
            [self._panel(self._picture(network, ids, device)) for ids in self.labels]
        )
        image.write(self.folder / f"step_{step:07d}.png", column)
        files = sorted(self.folder.glob("step_*.png"))
        shown = sorted({round(i) for i in np.linspace(0, len(files) - 1, COLUMNS)})
        columns = [image.read(files[i]) for i in shown]
        image.write(self.folder / "sheet.png", np.hstack([self.given, *columns]))

    @staticmethod
    def _picture(network: nn.Module, labels: Tensor, device: str) -> np.ndarray:
        with torch.inference_mode():
            rgb = reference.to_uint8(network(labels[None].to(device)))
            picture: np.ndarray = rgb[0, 0].cpu().numpy()
        return picture

    def _panel(self, picture: np.ndarray) -> np.ndarray:
        width = min(PANEL_WIDTH, self.size[1])
        return image.resize(picture, (self.size[0] * width // self.size[1], width))
