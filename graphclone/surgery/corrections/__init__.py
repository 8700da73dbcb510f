"""Corrects weights for what was cut away: one module a method, and one table of them (passes.py)."""
