"""What a training step costs: multiply-adds, bytes, and arrays to look at."""
