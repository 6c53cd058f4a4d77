"""Preference data that a policy makes and a scorer judges: pairs, rounds, the best of N."""
