"""Speed and memory, shown as ratios in one run: `python -m benchmarks --help`. The package imports nothing of it."""
