"""Ratios against other ways to do the same work; `make bench` runs them all."""
