"""The small models and the rendered scenes that `tiny` runs on; made here, not part of the wheel."""
