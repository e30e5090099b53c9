"""The subcommands of `trainer`, a module each.

A module has `register(app)`. What takes seconds to import is imported inside the command, after
its config is known to be right.
"""
