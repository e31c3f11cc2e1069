"""What makes a run's folder trustworthy: its owner, its identity, its name, its results.

Plain files in the folder and plain functions: no Lightning, and of Hydra only its paths.
"""
