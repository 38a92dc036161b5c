"""Decision processes small enough to write down: bandits, and Gymnasium's toy texts as exact tables."""
