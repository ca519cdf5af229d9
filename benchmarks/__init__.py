"""Speed and memory, shown as ratios in one run: `python -m benchmarks --help`. The package imports nothing of it."""

# glibc takes blocks as large as those that asyncio reads into, 256 KB, from the system and gives them back at once,
# until a larger one was freed: then it keeps them. Whether that has happened would be chance, and costs several
# microseconds a request, so it happens here, in each process that measures.
_block = bytearray(1 << 20)
del _block
