"""Training of cascades: data, losses, loop. Importing the package itself costs nothing."""
