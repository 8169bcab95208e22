"""What a model is for: how it is fed, what training minimises and how well it does. One file for each task."""
