"""The commands, a module for each: `add` adds it to the parser, and `run` runs it."""
