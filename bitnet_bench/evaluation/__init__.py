"""Score checkpoints on suites. This is the only package that imports lm_eval."""
