"""Let people rate two runs blindly: a page for a rater, and a summary of the raters' files."""
