"""Pelican: Deliberate Practice Policy Optimization (DPPO) on Kubeflow."""

__version__ = "0.1.0"
