"""Model families, and how a checkpoint becomes one."""
