"""Captions and class names: prompts, the search for classes, rewriting, tokens."""
