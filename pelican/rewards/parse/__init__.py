"""From the text of an answer to what it says: a choice, a number, points, a list, a span of time.

Every parser raises `Unscorable` when there is nothing to read, or more than one reading: an answer
that hedges is no answer.
"""
