"""Small stand-ins that obey the Protocols of `server.core.ports`."""
