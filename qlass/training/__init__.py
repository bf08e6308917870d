"""Training: one loop and two engines for SFT and for the QNet."""
