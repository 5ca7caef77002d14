"""Measures of what an engine makes. Importing the package itself costs nothing."""
