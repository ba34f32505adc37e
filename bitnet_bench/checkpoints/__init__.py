"""Checkpoints: find them, inspect them, and read, write and convert their weights."""
