"""Actors that fold, decide, append and perform."""
