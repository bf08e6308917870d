"""The recipe of a reader of ScienceWorld: random play in its training tasks and reading exercises (`pretrain/README.md`)."""
