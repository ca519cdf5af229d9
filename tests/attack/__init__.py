"""Attacks a client as a bank's security review does, and prints a table: what was tried, and what came of it.

`python -m tests.attack` exits with 1 if anything did not hold. Words after it choose the attacks that have one of them
in their description. Each fault that is found becomes one function more in one of the modules here: it returns what it
finds wrong, in words, or raises. An attack on what is not built yet is `known` to be wrong; once it holds, that is an
error too, until its mark is removed. Servers are on loopback, time is real, and each attack has a limit.
"""
