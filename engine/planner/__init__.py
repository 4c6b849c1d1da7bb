"""From shapes to memory to time to the best layout. Pure arithmetic, no torch."""
