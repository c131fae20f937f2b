"""Commands that measure, side by side: `python -m benchmarks.<name> [--json FILE]`, one command, one run each."""
