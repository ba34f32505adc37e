"""Properties of the machine that this process runs on: its GPU, threads, name, and fastest way to compute."""
