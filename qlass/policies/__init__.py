"""Policies and value functions: scripted, local (Llama models), or behind a server."""
