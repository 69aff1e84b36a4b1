"""Looks at the machine, the disk and the servers, and says what would break a stack here and how to mend it."""
