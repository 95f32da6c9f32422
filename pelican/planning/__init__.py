"""What a recipe needs of GPUs, before one is asked for. Formulas: docs/planning.md."""
