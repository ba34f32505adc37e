"""Let people judge two runs blindly: a page for a rater, and what the raters' files say together."""
