"""Stages that train a given model further; its transforms stay."""
