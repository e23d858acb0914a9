"""The destinations a worker pod can emit to, one file each."""
