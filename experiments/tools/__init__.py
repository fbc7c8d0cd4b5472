"""Subcommands that look at a run's data and model, or prepare files for attacks; none of them trains the model.

Each file has one function of its own name. Arguments other than ``model``, ``datamodule`` and ``device`` are options of
the subcommand.
"""
