"""Checks of the installation, the data sets and the weights."""
