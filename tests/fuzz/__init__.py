"""Fuzz every parser of a foreign file: `make fuzz`."""
