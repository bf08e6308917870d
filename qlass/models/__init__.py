"""Model folders on disk: policies and QNets, and where and how precisely they compute."""
