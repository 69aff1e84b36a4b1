"""Kernels for NVIDIA and AMD accelerators, in Triton, and the instruction set on them.

Triton compiles a kernel anew where a number is 1, or a multiple of 16, and was not before. Numbers that change from one
step to the next are left out of that (`do_not_specialize`): nobody is to wait for a compiler while he is served.
"""
