"""Stages that measure models and lay measurements side by side. Importing the package loads no tensor library."""
