"""The leaderboard: measured results and published figures."""
