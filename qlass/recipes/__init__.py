"""How the policies of the comparison come about: one file per policy, named as in `run.policies`."""
