"""The engine: it knows graphs, keys, files and machines, and no compression method."""
