"""The programs of a server as one stack: start, watch and end them; the data folder and its database."""
