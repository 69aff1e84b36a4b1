"""Kernels for NVIDIA and AMD accelerators, in Triton, and the instruction set on them."""
