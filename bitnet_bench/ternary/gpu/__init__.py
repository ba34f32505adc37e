"""Ternary arithmetic on NVIDIA GPUs, in Triton."""
