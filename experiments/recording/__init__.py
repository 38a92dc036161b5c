"""Recording of datasets: whose actions, whole episodes of them, and the file that they become."""
