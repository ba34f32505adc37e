"""Checkpoint x suite -> scores. The only place that imports lm_eval."""
