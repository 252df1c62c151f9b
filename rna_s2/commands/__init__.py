"""One module for each entry point of MLproject, named as it is (``compare`` is ``main``).

A command parses its options, opens its run and calls one function of a library room. Nothing imports from here.
"""
