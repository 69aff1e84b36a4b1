"""The tensor operations that layers are written in, and their implementations per platform."""
