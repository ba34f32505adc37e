"""Several steps in one go: a recipe, what it takes, and the quickstart."""
