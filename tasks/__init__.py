"""The stages of the pipeline: each program reads files, calls `qlass`, writes files and tracks the run.

`dvc.yaml` says which program runs when; nothing in here knows Prefect, and only `tasks.experiments.tracking` imports mlflow.
"""
