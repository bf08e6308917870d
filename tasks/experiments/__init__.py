"""What happened: MLflow runs and registry, identities, tables and cards. Only `tracking` imports mlflow."""
