"""What all environments share: contract, checker, panels, replay, step limit."""
