"""Kinds of load as Locust users, each answer checked against what the idle server said."""
