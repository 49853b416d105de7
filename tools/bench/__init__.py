"""The logic behind tools/: data sets, evaluation, records, tables.

Nothing is imported here: a config names the modules that register something (`custom_imports`).
"""
