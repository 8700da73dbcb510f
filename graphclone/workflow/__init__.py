"""Recipes: measure, plan, clone, verify, train, pack and export as data, each step kept by what it is made of."""
