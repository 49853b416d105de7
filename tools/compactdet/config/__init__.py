"""Configs: strict reading, composition from pieces, command-line options."""
