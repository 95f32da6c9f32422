"""What can be wrong with a pool as a whole: media, answers, copies, leaks, balance, text."""
