"""Held-out evaluation: results, metrics with intervals, forgetting, the gate between loops."""
