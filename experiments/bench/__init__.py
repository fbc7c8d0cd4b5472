"""``make bench``: what a defence costs, as ratios of times taken in one run. One file for each measurement."""
