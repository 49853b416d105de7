"""Configs: strict reading, composition from base configs, command-line options."""
