"""Ready-made choices, under the names of the public library."""
