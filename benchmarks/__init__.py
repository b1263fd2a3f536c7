"""Speed and memory, each beside its peer in the same run: `make bench`, or one part: `python -m benchmarks road`."""
