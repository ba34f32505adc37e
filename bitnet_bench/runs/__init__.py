"""A run on disk: its records, its folder, and what is read from it."""
