"""Word of tasks for addresses that their clients named."""
