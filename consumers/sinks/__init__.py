"""The destinations a projector writes to, one file each."""
