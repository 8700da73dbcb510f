"""Corrections of the weights for what was cut away: one room a method, one table of them (passes)."""
