"""Is the law exact on real weights? `python -m benchmarks.law` says so."""
