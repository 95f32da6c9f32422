"""What can be set: the table of stages, recipes, pods' resources, the environment. Imports quickly."""
