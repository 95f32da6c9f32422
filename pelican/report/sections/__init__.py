"""The figures of a report, section by section. Each takes a run and returns what has data."""
