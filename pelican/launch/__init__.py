"""Whoever runs a stage: processes of this machine, jobs of a cluster; and Kubeflow Pipelines."""
