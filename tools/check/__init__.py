"""`./check`: the house rules, executable. One module per step, each a `check(root)` that finds.

Not a style guide (CONTRIBUTING says why the rules are what they are) and not a test suite: a step
reads the tree and judges text, types and imports; what the program does is for `./test`. Called by
`./check`, and by `tests/test_check.py`, which plants each fault and expects it to be found.
"""
