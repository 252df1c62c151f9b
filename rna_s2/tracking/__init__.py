"""The only room that imports MLflow: runs, models and their signatures, the registry, tables of runs."""
