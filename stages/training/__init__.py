"""The one training loop, its settings, losses and evaluation. Importing the package loads no tensor library."""
