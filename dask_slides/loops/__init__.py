"""The inner loops that no library has a call for, compiled by Numba; see `compiled`.

Importing a module compiles its loops, once for a machine: Numba keeps the machine code beside
the file, or in the user's cache where it may not write there.
"""
