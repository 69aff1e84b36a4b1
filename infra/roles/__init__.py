"""What each process of the process table is made of: one file per role."""
