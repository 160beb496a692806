"""What every app stands on: settings, addresses, the programs of a server, the database, pages and their parts."""

__version__ = "0.1.0"
