"""The b1.58 arithmetic: quantizers, layers, packing and checkpoint formats."""
