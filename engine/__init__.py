"""The inference engine: scheduler, KV cache, kernels, models."""
