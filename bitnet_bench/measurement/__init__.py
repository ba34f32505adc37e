"""Memory, latency and energy of checkpoints, each in a process of its own."""
