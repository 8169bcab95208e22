"""Models: how they are built, carried between stages, changed by transforms and measured."""
