"""Define a run on disk: its records, its folder, and how they are read."""
