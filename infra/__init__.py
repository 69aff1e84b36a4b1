"""Puts the pieces together: settings, servers, processes, HTTP bridge, CLI."""
