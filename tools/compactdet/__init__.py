"""The modules behind the commands in tools/.

Nothing is imported here: a config names the modules that register classes (``custom_imports``).
"""

__version__ = '0.1.0'
