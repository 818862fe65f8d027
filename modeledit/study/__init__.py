"""The analyses of the method papers on a user's own network and images.

Each study returns a frozen value with tables (`output.Table`); a module beside it draws them, and
`output.save` writes both. matplotlib is needed for the pictures alone (extra `study`).
"""
