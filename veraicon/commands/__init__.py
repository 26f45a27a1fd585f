"""The commands of the command line, by what a user wants: serve, make, check, look after jobs."""
