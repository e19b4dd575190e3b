"""What is wrong with a finished run: where it errs, and whether its probabilities mean what they say."""
