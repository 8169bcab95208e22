"""Stages that write a model in a format that runs without this package. Importing the package loads no tensor library."""
