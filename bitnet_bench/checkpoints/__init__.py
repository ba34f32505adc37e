"""Models as files: find them, say what they are, read, write and convert their weights."""
