"""attnbias: five papers on attention bias behind one command line, one engine, the same data and the same measures."""

__version__ = "0.1.0"
