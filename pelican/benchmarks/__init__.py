"""Published benchmarks for embodied models: their layouts, prompts, answer extraction and metrics.

Each module names the code or paper that it follows; docs/benchmarks-vlm.md says where it departs.
"""
