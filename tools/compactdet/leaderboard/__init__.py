"""The leaderboard: measured and published results."""
