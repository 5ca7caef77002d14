"""Judging two sets of pictures by people's eyes: the paper's experiment, for one's own models."""
