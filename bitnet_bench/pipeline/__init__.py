"""Run several steps at once: recipes, estimates of what they take, and the quickstart."""
