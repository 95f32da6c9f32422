"""New data in, a better model out: intake, diagnosis, practice, gate, promotion.

A retraining is a run like others; what only it has lies below `runs/<run>/retrain/`:

intake/     the new data, checked and split: `train/`, `held/`, `facts.json`
practice/   what the loops train on and are held against: `train/`, `evaluation/`, `weakness.json`
../verdict.json   how it ended, and why
"""
