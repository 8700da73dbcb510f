"""Olive (olive-ai): graphclone as a pass of its workflows. ``olive run --package-config`` reads where it is.

Nothing is imported here: Olive imports ``graphclone.olive.passes``, the command line ``graphclone.olive.package``.
"""
