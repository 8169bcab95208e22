"""Data sets: what a split offers, and the splits shipped here. Importing the package loads no tensor library."""
