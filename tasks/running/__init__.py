"""How a stage runs: its shell, resuming, workers on one machine or many, progress."""
