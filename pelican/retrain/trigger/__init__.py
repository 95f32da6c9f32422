"""Notices new data in a bucket and starts one retraining per batch; any number of replicas.

All state is in the store, below `trigger/`, and changes by conditional writes alone. A record holds
a digest of itself (`records.py`), and one that is damaged is made again from others:

keys/<id>.json       the newest event of an object's key
seen/<id>.json       an event by its object version; with `batch` once it is in one
pending/<id>.json    an event that waits for its batch
head.json            the newest batch: sealing the next one swaps it
batches/<n>.json     a batch: its events and its data version
status/<n>.json      who works on a batch, its run, how it ended
cursor.json          the batch that is worked on; they are taken in order
requests/<id>.json   signed requests that were received
watermark.json       what polling has seen
tidied.json          when old marks and decisions were last looked after
audit/<day>/…        every decision; of past days audit/<day>.jsonl
"""
