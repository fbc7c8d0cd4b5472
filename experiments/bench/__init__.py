"""``make bench``: the cost of a defense, as ratios of times measured in one run. One file for each measurement."""
