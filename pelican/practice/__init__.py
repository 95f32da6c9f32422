"""Deliberate practice: success rates, the buffer, the weak set, stagnation and the ledger."""
