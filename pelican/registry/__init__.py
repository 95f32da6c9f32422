"""The registry of models: immutable versions with their lineage, and the aliases that point at them.

registry/<model>/aliases.json                       candidate, current, previous, and every move
registry/<model>/versions/<n>/claim.json            who took the number
registry/<model>/versions/<n>/checkpoint/…          a Hugging Face folder
registry/<model>/versions/<n>/README.md             the model card
registry/<model>/versions/<n>/version.json          lineage and digests, written last
registry/<model>/versions/<n>/decisions/<digest>.json   what gates and persons decided about it
"""
