"""Several methods in one training run. Importing the package loads no tensor library."""
