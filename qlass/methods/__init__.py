"""Stage 4: how a task is played. One file per method, named as in `run.searches`; `greedy` plays the policies alone.

A method's file imports nothing from another method's: what they share is `qlass.methods.base` and `qlass.search`.
"""
