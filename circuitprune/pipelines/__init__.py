"""From a config to objects to steps: one file per command.

Only here do settings meet the objects that they build. Imports everything but `cli`.
"""
