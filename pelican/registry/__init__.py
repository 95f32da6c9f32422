"""The registry of models: immutable versions with their lineage, aliases, export, garbage."""
