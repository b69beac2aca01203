"""The commands of ``fpl-fast``: one module each, with ``SUMMARY`` and ``main(arguments) -> exit code``."""
