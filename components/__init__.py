"""One thin Kubeflow component per stage: parameters become a job, a launcher runs it, results go on.

Parameters between tasks are prefixes of the store and numbers; everything large stays in the store.
What a stage reads of the recipe (pools, teacher, settings) it takes from the run's recipe.json.
"""
