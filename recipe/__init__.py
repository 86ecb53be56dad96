"""recipe: training tricks as config options.

Each trick is one option file and one function; the chosen ones are composed into one
run spec, trained, and recorded, so that runs can be compared trick by trick.
"""

__version__ = "0.2.0"
