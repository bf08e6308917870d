"""What runs with several seeds amount to: read, compared, kept in `docs/results/`, shown in documents."""
