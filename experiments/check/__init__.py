"""Whether attacks are likely to work, before anything is trained."""
