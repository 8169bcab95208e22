"""Quantization-aware training: fewer bits for weights and activations."""
