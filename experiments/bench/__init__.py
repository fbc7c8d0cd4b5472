"""``make bench``: what a defense costs, as ratios of times taken in one run. One file for each measurement."""
