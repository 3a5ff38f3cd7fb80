"""The core on every processor, and what it touches and calls."""
