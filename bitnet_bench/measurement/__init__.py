"""Measure memory, latency and energy of checkpoints, each in its own process."""
