"""Rows of pairs: the table, the partition, subsets, and keyed randomness."""
