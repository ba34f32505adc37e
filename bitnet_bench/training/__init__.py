"""What every training backend shares: the order of the data, the loss, and the code-flip monitor."""
