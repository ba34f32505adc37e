"""The machine that this process runs on: its GPU, its threads, its name, and what computes fastest on it."""
