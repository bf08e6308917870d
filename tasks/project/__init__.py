"""What the files of the project say: paths, params.yaml, dvc.yaml; and the variables of every process."""
