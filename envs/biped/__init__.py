"""The walking robot: its body (biped.xml), its task (walker.py) and what counts as walking (gait.py)."""
