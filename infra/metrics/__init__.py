"""What Prometheus is told: vLLM's metrics of engines by vLLM's names, and our own of the bus, the record and agents."""
