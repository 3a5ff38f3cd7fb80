"""What people look at: the byte map, charts in a terminal, pictures of a training.

Everything here works with the standard library alone and is better with rich; pictures need
matplotlib, which is imported when used.
"""
