"""Speed and memory, shown as ratios in one run: `python -m benchmarks --help`. Nothing here is imported by the package."""
