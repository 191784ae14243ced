"""What a model knows and can do: the log-likelihood engine, metrics, and one file per task."""
