"""What every training run shares: one loop, two backends, resumable states, rows and batches."""
