"""Losses, one a file, each with its equation; `loss.py` holds what they share."""
