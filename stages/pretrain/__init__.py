"""Stages that train a model from its initial weights."""
