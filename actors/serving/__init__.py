"""Serving a model: frontend, scheduler, worker."""
