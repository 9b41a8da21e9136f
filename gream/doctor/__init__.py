"""What is installed and works here, found out by trying it: `gream doctor`.

packages  versions against the ranges of pyproject.toml and against the lock
trials    programs of a second, each in a process of its own
places    where models and data come from, disk and memory
examine   the command
"""
