"""Pure functions on arrays: returns, policy losses, KL estimators, value losses."""
