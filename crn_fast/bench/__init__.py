"""Measures this cascade beside what else could run it: `crn-fast bench`, and the suites' means.

The clock, the gate and the rows are `crn_fast.measure`'s. Importing the package costs nothing.
"""
