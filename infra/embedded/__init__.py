"""The small model that ships with Ostinato: its dialogues, its training, its checkpoint."""
