"""What must be true of a model and a pool for DPPO to show: measured on a sample, before any training."""
