"""Stages without tensors: they check an installation and exercise an engine."""
