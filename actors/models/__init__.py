"""Where answers come from: the port that agents call models through."""
