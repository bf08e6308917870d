"""QLASS: Q-guided stepwise search for language agents (arXiv 2502.02584), as a library.

It knows no orchestrator, no tracker and no repository: `tasks/` and `flows/` put it to work.
"""
