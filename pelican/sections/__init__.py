"""The sections of a recipe: one line per field with its unit. Imported through `pelican.recipe`.

Defaults follow the DPPO papers (arXiv 2511.16602, 2511.00108) where they publish a value, marked
[P]; the others are Pelican's decisions, marked [D].
"""
