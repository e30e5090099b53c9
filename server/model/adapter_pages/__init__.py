"""From a PEFT folder to pages in the device's adapter bank."""
