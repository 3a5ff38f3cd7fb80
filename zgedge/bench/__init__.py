"""Tables of speed and memory, each written by a command that regenerates it."""
