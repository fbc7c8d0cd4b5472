"""How it is run: the command, the configurations, and what is read from finished runs."""
