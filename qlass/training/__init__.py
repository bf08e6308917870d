"""Training: what is optimised (`objectives`) and how (`core`)."""
