"""Batches as clients and the processes of a stack meet them."""
