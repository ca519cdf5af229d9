"""The commands, a module for each: what it does, examples, its arguments, and `run`, which returns the exit code."""
