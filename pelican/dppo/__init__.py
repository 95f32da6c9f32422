"""Deliberate practice itself: difficulty, stagnation, distillation, retrieval."""
