"""Tests of the embedded model's dialogues, template, and checkpoint."""
