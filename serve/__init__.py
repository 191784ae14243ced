"""Proxy-tuned ensembles behind OpenAI's API: gateway (HTTP) -> ensemble (decode loop) -> models, on Ray Serve."""
