"""What the paper's benchmarks share: their command line, their sweeps, the paper's numbers, and the closing table."""
