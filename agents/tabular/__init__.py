"""Tables in place of networks: bandits, temporal-difference control, dynamic programming."""
