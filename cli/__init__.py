"""The command line: parse, call, print. Shipped as `modeledit.cli`; imports no torch by itself."""
