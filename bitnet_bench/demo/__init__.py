"""The embedded pair of tiny checkpoints, its model card, and what builds it."""
