"""``python -m mige_ext`` runs the command line."""

from mige_ext._command_line import main

if __name__ == "__main__":
    main()
