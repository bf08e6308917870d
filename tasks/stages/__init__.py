"""One program per stage of `dvc.yaml`, and nothing else."""
