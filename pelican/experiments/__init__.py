"""Sets of runs that answer a question together: variants of a recipe, seeds, one table."""
