"""Search: the rollout engine, exploration trees (stage 2) and the evaluated methods (stage 4)."""
