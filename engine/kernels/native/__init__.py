"""Kernels of our own in C++, for processors with AVX-512 and bf16 products, built by the compiler that is there."""
