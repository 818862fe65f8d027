"""Evaluators: what a network does, by class and by slice, and whether that passes the gates."""
