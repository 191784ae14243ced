"""Runs in MLflow: one per cell, one per curve, sent through an outbox. The only room that imports mlflow."""
