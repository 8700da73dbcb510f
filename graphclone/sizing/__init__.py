"""Budgets: of all shapes that meet one, the shape whose clone loses least."""
