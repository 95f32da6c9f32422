"""Runs: how they lie in the store, what is checked before one, what came of it, how it failed."""
