"""Rendering on many machines: folders, Parquet files and WebDatasets of layouts, with Ray Data.

    from crn_fast import cluster
    cluster.render("layouts", "pictures", model="street-256", address="auto")

Ray (extra [cluster]) is imported when `render` is called.
"""

from __future__ import annotations

from crn_fast.cluster.dataset import Counts, render
from crn_fast.cluster.options import Options

__all__ = ["Counts", "Options", "render"]
