"""`python -m s2lite`."""

from s2lite.cli import s2lite

if __name__ == "__main__":
    s2lite()
