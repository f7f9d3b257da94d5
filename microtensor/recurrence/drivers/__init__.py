"""What runs a derived cell over whole sequences: one file for each way."""
