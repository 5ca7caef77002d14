"""The networks that the paper compares the cascade with, one a file; for comparison, not for use.

Training, eager rendering and eval take them. No engine is built of them.
"""
