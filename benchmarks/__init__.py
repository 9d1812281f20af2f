"""Measurements that stand behind the numbers in the docs; each runs as `./bench NAME`."""
