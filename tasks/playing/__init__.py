"""How tasks are played inside the workers of expert, explore, evaluate and search."""
