"""What every measurement stands on: the client, the server process, figures, the command line."""
