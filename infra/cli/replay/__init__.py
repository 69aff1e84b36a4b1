"""`ostinato replay`: what the log says happened, read, verified and compared; one module for a verb or two."""
